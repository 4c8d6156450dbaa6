"""How an artifact came to be: `how.json` beside it, from which the step is repeated without Dagster.

    python -m pipelines.core.how artifacts/flight_delay/3/int8_static/how.json

It names the step (`pipelines.core.steps`), its settings, the digests of what went in and came out, and the
versions that made it. Inputs are found relative to the artifact, so a home that was moved replays as well.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bentos import contract
from bentos.manifest import sha256
from pipelines.core.errors import FileMissing, SeatrialError, SettingsInvalid

HOW_FILE = "how.json"
PARTS = ("step", "inputs", "settings", "outputs", "versions")
PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "torch")

JSON = Any
"""What JSON can hold."""

Digest = str | dict[str, str]
"""Of a file; of a folder, those of all files below it but how.json, which is about the making."""


@dataclass(frozen=True)
class Replay:
    """What came of repeating a step: its outputs by name, and versions as (then, now) where they differ."""

    outputs_same: tuple[str, ...]
    outputs_differ: tuple[str, ...]
    versions_differ: Mapping[str, tuple[str, str]]


def perform(
    step: str, inputs: Mapping[str, Path], settings: Mapping[str, JSON], folder: Path
) -> Mapping[str, JSON]:
    """Run a step of `pipelines.core.steps` into `folder`, write how.json there, return what the step returns.

    An input is a file or a folder. What lay in `folder` before and was not written again is no output.
    Raises SettingsInvalid for an unknown step, FileMissing for a missing input, and whatever the step raises;
    then there is no how.json.
    """
    from pipelines.core.steps import STEPS

    if step not in STEPS:
        raise SettingsInvalid("step", step, f"the steps are {', '.join(STEPS)}")
    if missing := [(name, path) for name, path in inputs.items() if not path.exists()]:
        raise FileMissing(*missing[0])
    read = {n: {"path": os.path.relpath(path, folder), "sha256": _digest(path)} for n, path in inputs.items()}
    plain = json.loads(json.dumps(settings))  # what a replay will read
    before = _stamps(folder)
    result = STEPS[step](inputs, plain, folder)
    written = {n: sha256(folder / n) for n, stamp in _stamps(folder).items() if before.get(n) != stamp}
    how = dict(zip(PARTS, (step, read, plain, written, _versions()), strict=True))
    (folder / HOW_FILE).write_text(json.dumps(how, indent=2) + "\n")
    return result


def replay(how: Path, into: Path) -> Replay:
    """Repeat the step of a how.json into `into`, an empty folder or none yet, and compare the outputs.

    Raises SettingsInvalid where how.json can't be read, `into` holds something, or an input is gone or no
    longer what the step read.
    """
    made = _load(how)
    inputs = {name: _unchanged(how, name, given) for name, given in made["inputs"].items()}
    into.mkdir(parents=True, exist_ok=True)
    if any(into.iterdir()):
        raise SettingsInvalid("into", str(into), "choose an empty folder, for nothing is overwritten")
    perform(made["step"], inputs, made["settings"], into)
    again = _load(into / HOW_FILE)
    same = made["outputs"].items() & again["outputs"].items()
    differ = made["outputs"].items() ^ again["outputs"].items()
    return Replay(
        tuple(sorted(name for name, _ in same)),
        tuple(sorted({name for name, _ in differ})),
        _differences(made["versions"], again["versions"]),
    )


def _load(how: Path) -> dict[str, Any]:
    try:
        made = json.loads(how.read_text())
        return {part: made[part] for part in PARTS}
    except (OSError, ValueError, LookupError, TypeError) as error:
        mend = f"it can't be read ({error!r}): name the {HOW_FILE} beside an artifact"
        raise SettingsInvalid("how", str(how), mend) from error


def _unchanged(how: Path, name: str, given: Mapping[str, Any]) -> Path:
    """Where an input lies now, if it is still what the step read."""
    path, then = Path(os.path.normpath(how.absolute().parent / given["path"])), given["sha256"]
    now = _digest(path) if path.exists() else None
    if now == then:
        return path
    change = "it is gone" if now is None else "it changed"
    if isinstance(now, dict) and isinstance(then, dict):
        change = f"in it changed {', '.join(sorted({file for file, _ in now.items() ^ then.items()}))}"
    mend = "put back what the step read, or make the artifact anew"
    raise SettingsInvalid(f"The input {name} of {how}", str(path), f"{change}: {mend}")


def _digest(path: Path) -> Digest:
    return {name: sha256(path / name) for name in _stamps(path)} if path.is_dir() else sha256(path)


def _stamps(folder: Path) -> dict[str, tuple[int, ...]]:
    """All files below the folder but how.json, by relative name, with what writing changes of them."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != HOW_FILE]
    stats = {path.relative_to(folder).as_posix(): path.stat() for path in files}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def _versions() -> dict[str, str]:
    """Of all that decides what a step computes. Asked of the installation, so nothing heavy is imported."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "code": _code()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _code() -> str:
    """A digest of our own sources that steps are made of."""
    roots = (Path(__file__).parent, Path(contract.__file__).parent)
    sources = [sha256(path) for root in roots for path in sorted(root.rglob("*.py"))]
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:16]


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    pairs = {name: (then.get(name, "none"), now.get(name, "none")) for name in {**then, **now}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 when an output differs, and exits with 2 when nothing can be compared."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.core.how", description="Repeat a step.")
    parser.add_argument("how", type=Path, help="the how.json beside an artifact")
    parser.add_argument("--into", type=Path, help="an empty folder to keep the outputs in")
    given = parser.parse_args(arguments)
    with TemporaryDirectory() as scratch:
        try:
            found = replay(given.how, given.into or Path(scratch))
        except SeatrialError as error:
            parser.error(str(error))
    lines = [f"same     {name}" for name in found.outputs_same]
    lines += [f"differs  {name}" for name in found.outputs_differ]
    lines += [f"version  {name} was {then}, is {now}" for name, (then, now) in found.versions_differ.items()]
    print("\n".join(lines))
    return 1 if found.outputs_differ else 0


if __name__ == "__main__":
    sys.exit(main())
