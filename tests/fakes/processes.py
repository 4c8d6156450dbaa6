"""Children of the test instead of supervised processes: real ports and logs, but nobody restarts them."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from pipelines.gateways.processes import Command, Processes


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
                command.argv, env={**env, **command.env}, stdout=log, stderr=log, start_new_session=True
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

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def shutdown(self) -> None:
        for name in list(self.children):
            self.stop(name)
