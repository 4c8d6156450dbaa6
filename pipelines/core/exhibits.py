"""What was recorded of files when they were written and read, to be held against them later.

A step (`how`) leaves how.json in its folder; what is not made by a step gets a seal.json of the same form.
Two records of one file have to agree: that is how data, model, ONNX file, rung and bento hang together.

To look at a file again is to read all of it. Its size and time would be known at once, but whoever changes
a file can set both back. SHA-256 takes 0.7 s a GiB where the processor has instructions for it (1.37 GiB/s
on one core of a Xeon), which is little for something that is asked once a deployment.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bentos.manifest import sha256
from pipelines.core.errors import EvidenceMissing
from pipelines.core.how import HOW_FILE

SEAL_FILE = "seal.json"
CACHE = "__pycache__"
"""What Python writes beside sources when they first run; it is no part of what was built."""


@dataclass(frozen=True)
class Exhibit:
    """A file, or a folder with all in it.

    name    e.g. holdout, or onnx_model/model.onnx
    path    relative to SEATRIAL_HOME where it lies below it
    sha256  of the file's bytes; of a folder, of the lines "digest  name" of its files
    """

    name: str
    path: str
    sha256: str

    def fault(self, root: Path) -> str:
        """What is wrong with it now, in words; empty where it is as it was."""
        path = root / self.path
        if not path.exists():
            return f"{self.path} is gone"
        return "" if digest(path) == self.sha256 else f"{self.path} is not what it was"

    def kept(self, folder: Path) -> bool:
        """Whether `keep` put the file there, and it is as it was."""
        path = folder / self.sha256
        return path.is_file() and sha256(path) == self.sha256


def digest(path: Path) -> str:
    """Of a file or a folder. Raises OSError."""
    if path.is_file():
        return sha256(path)
    files = {each.relative_to(path): each for each in path.rglob("*") if each.is_file()}
    lines = sorted(f"{sha256(file)}  {name}\n" for name, file in files.items() if CACHE not in name.parts)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def seal(folder: Path, read: Mapping[str, tuple[Path, str]] | None = None) -> None:
    """Record all files of the folder, and what they were made from: {name: (path, digest)}."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    inputs = {n: {"path": os.path.relpath(at, folder), "sha256": of} for n, (at, of) in (read or {}).items()}
    outputs = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    (folder / SEAL_FILE).write_text(json.dumps({"inputs": inputs, "outputs": outputs}, indent=2) + "\n")


def keep(exhibits: Iterable[Exhibit], root: Path, folder: Path) -> None:
    """Keep files in `folder`, named by their digests: what is made again later takes the place of a file, and
    the kept one is still what it was.

    A link to the same bytes takes no room until then. Where none can be made, files below `root` are copied;
    others are whose they are, and may be larger than the disk. Folders are not kept. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for each in exhibits:
        file, kept = root / each.path, folder / each.sha256
        if not file.is_file() or each.kept(folder):
            continue
        kept.unlink(missing_ok=True)
        try:
            os.link(file.resolve(), kept)
        except OSError:
            if not Path(each.path).is_absolute():
                half = kept.with_suffix(".half")
                shutil.copyfile(file, half)
                half.replace(kept)


def collect(subject: str, root: Path, folders: Iterable[Path]) -> dict[str, Exhibit]:
    """All that the records in these folders speak of, by name, the records included.

    Raises EvidenceMissing where a folder has no record, or two records disagree about a file.
    """
    found: dict[str, tuple[Exhibit, str]] = {}
    for folder in folders:
        for each in _recorded(subject, folder):
            exhibit = Exhibit(each.name, below(root, Path(each.path)), each.sha256)
            first, said_by = found.setdefault(exhibit.path, (exhibit, folder.name))
            if first.sha256 != exhibit.sha256:
                reason = f"{folder.name} knows another {exhibit.path} than {said_by} does"
                raise EvidenceMissing(subject, reason)
    return {exhibit.name: exhibit for exhibit, _ in found.values()}


def _recorded(subject: str, folder: Path) -> Iterator[Exhibit]:
    record = next((folder / name for name in (HOW_FILE, SEAL_FILE) if (folder / name).exists()), None)
    if record is None:
        raise EvidenceMissing(subject, f"nothing is recorded of its {folder.name}")
    made = json.loads(record.read_text())
    yield Exhibit(f"{folder.name}/{record.name}", str(record), sha256(record))
    for name, of in made["outputs"].items():
        yield Exhibit(f"{folder.name}/{name}", str(folder / name), of)
    for name, given in made["inputs"].items():
        path = os.path.normpath(folder.absolute() / given["path"])
        if isinstance(given["sha256"], str):
            yield Exhibit(name, path, given["sha256"])
        else:
            yield from (
                Exhibit(f"{name}/{file}", f"{path}/{file}", of) for file, of in given["sha256"].items()
            )


def below(root: Path, path: Path) -> str:
    """As an exhibit names it."""
    root, path = root.absolute(), path.absolute()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
