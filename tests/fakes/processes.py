"""Children of the test instead of supervised processes: real ports and logs, but nobody restarts them."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from pipelines.core.capacity.readings import Usage
from pipelines.core.errors import ServiceFailed
from pipelines.gateways.processes import Command, Processes, tree_usage


class FakeProcesses(Processes):
    """`folder` is for the logs. End with `shutdown`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: dict[str, subprocess.Popen] = {}

    def start(self, name: str, command: Command) -> None:
        self.stop(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        env = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        with self.log(name).open("ab") as log:
            self.children[name] = subprocess.Popen(
                command.argv,
                env={**env, **command.env},
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_can_be_ended,
            )

    def stop(self, name: str) -> None:
        child = self.children.pop(name, None)
        if child is not None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            child.wait()

    def states(self) -> dict[str, str]:
        return {
            name: "RUNNING" if child.poll() is None else "EXITED" for name, child in self.children.items()
        }

    def usage(self, name: str) -> Usage:
        child = self.children.get(name)
        if child is None or child.poll() is not None:
            raise ServiceFailed(name, "does not run", self.log(name))
        return tree_usage(child.pid)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def shutdown(self) -> None:
        for name in list(self.children):
            self.stop(name)


def _can_be_ended() -> None:
    """A shell that ignores SIGTERM hands that down to its children."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
