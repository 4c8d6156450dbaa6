"""A process and all that it starts, as one thing: pinned, timed and ended together."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.benchmarks.harness.machine import SERVER_CORE

PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 10
LIBC = ctypes.CDLL(None)


class Tree:
    """The process `pid` and its descendants."""

    def __init__(self, pid: int) -> None:
        self.root = psutil.Process(pid)

    def processes(self) -> list[psutil.Process]:
        return [self.root, *self.root.children(recursive=True)]

    def alive(self) -> bool:
        return self.root.is_running() and self.root.status() != psutil.STATUS_ZOMBIE

    def cpu_seconds(self) -> float:
        """User and system time of all of them, and of children that ended and were waited for."""
        total = 0.0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def end(self) -> None:
        """SIGTERM to the root; whoever is left after a while is killed."""
        with suppress(psutil.NoSuchProcess):
            tree = self.processes()
            self.root.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs(tree, timeout=GRACE_SECONDS)
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(alive, timeout=GRACE_SECONDS)


@contextmanager
def running(argv: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> Iterator[Tree]:
    """The command on the server's core, with PATH, HOME and `env` only, and its output in `log`."""
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(argv),
            cwd=folder,
            env={**plain, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_settle,
        )
    tree = Tree(process.pid)
    try:
        yield tree
    finally:
        tree.end()
        process.wait()


def _settle() -> None:
    """In the child, before it becomes the command: its core, and that orphans below it stay below it."""
    os.sched_setaffinity(0, {SERVER_CORE})
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
