"""The lines of a log that grows, is put aside and goes on under its name: each is read once, when whole."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

HEAD_BYTES = 512
"""By which a file is known again: once it is deleted, another one may get the number of its inode."""
CHUNK_BYTES = 4 * 2**20


class Tail:
    """`files()` are those to be read, oldest first. What was read is known by inode, so a file may be renamed
    and still be written to; one that has become shorter is read from its beginning."""

    def __init__(self, files: Callable[[], list[Path]]) -> None:
        self._files = files
        self._read: dict[int, tuple[int, bytes]] = {}
        self.is_behind = False

    def chunks(self, most_bytes: int) -> Iterator[bytes]:
        """Whole lines that are new, many at a time, about `most_bytes` in all; `is_behind` says afterwards
        whether there were more. Raises OSError."""
        self.is_behind = True
        for path in self._files():
            for chunk in self._rest(path):
                yield chunk
                most_bytes -= len(chunk)
                if most_bytes <= 0:
                    return
        self.is_behind = False

    def _rest(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            start, known = self._read.get(status.st_ino, (0, b""))
            if status.st_size == start:
                return
            head = file.read(HEAD_BYTES)
            if status.st_size < start or not head.startswith(known):
                start = 0
            while chunk := _lines(file, start):
                start += len(chunk)
                self._read[status.st_ino] = start, head
                yield chunk


def _lines(file: BinaryIO, start: int) -> bytes:
    """The whole lines of the next chunk, or of one line that is longer than that; none yet is empty."""
    file.seek(start)
    chunk = b""
    while b"\n" not in chunk and (more := file.read(CHUNK_BYTES)):
        chunk += more
    return chunk[: chunk.rfind(b"\n") + 1]
