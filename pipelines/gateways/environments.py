"""pip and venv: Python environments with given packages only, and commands whose output is kept.

Not a door of its own: it stands behind `bento_store`, as a bento is served from its own environment.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipelines.core.errors import BuildFailed


def python_with(requirements: Path, environments: Path) -> Path:
    """The Python of a virtual environment with these requirements only, made once for each set of them.

    `.complete` is written last, so that a half-made one is made anew. Raises BuildFailed.
    """
    digest = hashlib.sha256("\n".join(_pins(requirements)).encode()).hexdigest()[:16]
    folder = environments / digest
    python = folder / "bin" / "python"
    with locked(environments / f"{digest}.lock"):
        if not (folder / ".complete").exists():
            venv.create(folder, clear=True, symlinks=True)
            pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-input"]
            argv = [*pip, "-r", str(requirements)]
            run("The environment of the service", argv, _for_pip(), folder, environments / f"{digest}.log")
            (folder / ".complete").touch()
    return python


def run(subject: str, argv: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> None:
    """Run to the end with the output in `log`. Raises BuildFailed with the last line that tells an error."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        ended = subprocess.run(argv, env=env, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    if ended.returncode:
        lines = log.read_text().strip().splitlines() or [f"exit status {ended.returncode}"]
        told = [line for line in lines if "error" in line.lower()]
        raise BuildFailed(subject, log, (told or lines)[-1])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock ends with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _pins(requirements: Path) -> list[str]:
    """The lines that ask for something, sorted: BentoML appends to the file a pin that is there already."""
    lines = {line.strip() for line in requirements.read_text().splitlines()}
    return sorted(line for line in lines if line and not line.startswith("#"))


def _for_pip() -> dict[str, str]:
    """All but Python's own: indexes, proxies and certificates are set by variables on many machines."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


if __name__ == "__main__":  # part of the installation: python -m pipelines.gateways.environments FILE FOLDER
    python_with(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
