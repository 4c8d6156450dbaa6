"""Numbers that the worker processes of one service add up together, exactly, by one addition in memory each.

Each worker maps a file of doubles of its own into memory and counts in place, so what it counted outlives it.
It locks that file for as long as it lives: the lock tells whose gauges still hold, and a new worker goes on
with the file of a dead one, so that a crash loop leaves no trail of files.
"""

import fcntl
import itertools
import logging
import mmap
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)


class Counts:
    """`slots` are this worker's, `sums()` those of all workers that share `folder`; None: there is no other.

    count   how many slots
    gauges  the slots that are void when their worker is dead; all others stay
    mark    a number that stands for what the slots mean: files that bear another are left out
    """

    def __init__(self, folder: Path | None, count: int, gauges: Sequence[int], mark: float) -> None:
        self._folder, self._count, self._gauges, self._mark = folder, count + 1, list(gauges), mark
        self._path, memory = self._claimed(folder) if folder else (None, mmap.mmap(-1, self._size_bytes))
        whole = memoryview(memory).cast("d")
        self.slots = whole[:count]
        for at in self._gauges if whole[-1] == mark else range(count):
            self.slots[at] = 0.0
        whole[-1] = mark

    @property
    def _size_bytes(self) -> int:
        return self._count * 8

    def sums(self) -> np.ndarray:
        """The slots of all workers, added up; gauges of living ones only."""
        sums = np.array(self.slots)
        for path in self._folder.glob("seatrial-*.counts") if self._folder else ():
            if path != self._path:
                sums += self._others(path)
        return sums

    def _claimed(self, folder: Path) -> tuple[Path | None, mmap.mmap]:
        """The first file that no living worker holds, locked until this object or its process is gone."""
        try:
            for path in (folder / f"seatrial-{number}.counts" for number in itertools.count()):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
                if _locks(descriptor, fcntl.LOCK_EX):
                    break
                os.close(descriptor)
            weakref.finalize(self, os.close, descriptor)
            os.ftruncate(descriptor, self._size_bytes)
            os.posix_fallocate(descriptor, 0, self._size_bytes)  # a full disk is told now, not by a SIGBUS
            return path, mmap.mmap(descriptor, self._size_bytes)
        except OSError as error:
            logger.warning("Metrics count this worker alone: %s.", error.strerror)
            return None, mmap.mmap(-1, self._size_bytes)

    def _others(self, path: Path) -> np.ndarray:
        """What another worker has counted; nothing while it is still starting."""
        try:
            with path.open("rb") as file:
                content = file.read()
                is_dead = _locks(file.fileno(), fcntl.LOCK_SH)
        except OSError:
            content, is_dead = b"", True
        slots = np.frombuffer(content).copy() if len(content) == self._size_bytes else np.zeros(self._count)
        if slots[-1] != self._mark:
            slots[:] = 0
        if is_dead:
            slots[self._gauges] = 0
        return slots[:-1]


def _locks(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
