"""Files and folders that are replaced in one step: a reader sees the old or the new, never a mixture.

What is being written lies beside its destination under a hidden name. It is flushed to the disk and then
renamed, so a crash at any point leaves the old content; the next writer removes what the dead one left.
"""

import ctypes
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

AT_FDCWD, RENAME_EXCHANGE = -100, 2


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file atomically. Equal tables give equal bytes, so the file's digest is its version."""
    with replacing(path) as temp:
        pq.write_table(table, temp, compression="zstd")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file; it becomes `path` when the block ends, and is deleted when the block raises."""
    temp = _beside(path)
    try:
        yield temp
        commit_file(temp, path)
    finally:
        temp.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder; it becomes `path` when the block ends, and is deleted when the block raises."""
    temp = _beside(path)
    temp.mkdir()
    try:
        yield temp
        commit_folder(temp, path)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def commit_file(temp: Path, path: Path) -> None:
    """Put the file `temp` in the place of `path`, for good."""
    _flush(temp)
    temp.replace(path)
    _flush(path.parent)


def commit_folder(temp: Path, path: Path) -> None:
    """Put the folder `temp` in the place of `path`, for good. A former folder is at `temp` afterwards."""
    for inner in [*temp.rglob("*"), temp]:
        _flush(inner)
    if path.exists():
        _exchange(temp, path)
    else:
        temp.rename(path)
    _flush(path.parent)


def _beside(path: Path) -> Path:
    """A hidden name of our own beside `path`, whose folder is created and freed of what dead writers left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.partial"):
        if not psutil.pid_exists(int(left.name.split(".")[-3])):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}.partial")


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step: os.rename cannot replace a folder that is not empty."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, bytes(one), AT_FDCWD, bytes(other), RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))


def _flush(path: Path) -> None:
    """Wait until the file, or the names in the folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
