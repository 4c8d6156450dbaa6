"""The rows that wait, by length: first come first served within a bucket of similar lengths, and a large
request in chunks, each with a turn of its own. Which bucket goes first is the scheduler's to say.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from bentos.work import Job


class Part(NamedTuple):
    """Rows of a job, from `start` to before `stop`."""

    job: Job
    start: int
    stop: int


@dataclass(slots=True, eq=False)
class Entry:
    """What waits of a job: `left` rows from row `taken` on. `turn`, in seconds, orders it."""

    job: Job
    turn: float
    left: int
    taken: int = 0


@dataclass(slots=True, eq=False)
class Bucket:
    """Jobs of similar length. Who left stays in the heap, with no row left, until it comes to the top."""

    heap: list[tuple[float, int, Entry]] = field(default_factory=list)
    rows: int = 0
    length: int = 0

    @property
    def head(self) -> Job:
        """Who is next. Only where rows wait."""
        while not self.heap[0][2].left:
            heappop(self.heap)
        return self.heap[0][2].job


class Waiting:
    """All that waits. `ends` are the upper ends of the buckets; longer rows form a last one."""

    def __init__(self, ends: Sequence[int]) -> None:
        self._ends = sorted(ends)
        self.buckets = [Bucket() for _ in range(len(self._ends) + 1)]
        self.entries: dict[Job, Entry] = {}
        self.rows = 0
        self._order = count(1)
        self._front = count(0, -1)

    def bucket(self, job: Job) -> Bucket:
        return self.buckets[bisect_left(self._ends, job.length)] if self._ends else self.buckets[0]

    def push(self, job: Job) -> None:
        self._enter(Entry(job, job.arrived, job.size), next(self._order))

    def remove(self, job: Job) -> bool:
        """Forget what waits of a job; whether anything did."""
        entry = self.entries.pop(job, None)
        if entry is None:
            return False
        self._add(self.bucket(job), -entry.left)
        entry.left = 0
        return True

    def take(self, bucket: Bucket, most: int, pause: Callable[[Entry, int], float]) -> list[Part]:
        """Up to `most` rows from the front. The rest of a job has its next turn `pause(entry, rows)` seconds
        after this one."""
        parts: list[Part] = []
        room = total = min(most, bucket.rows)
        while room:
            _, order, entry = heappop(bucket.heap)
            if not entry.left:
                continue
            rows = min(room, entry.left)
            parts.append(Part(entry.job, entry.taken, entry.taken + rows))
            room -= rows
            entry.taken += rows
            entry.left -= rows
            if entry.left:
                entry.turn += pause(entry, rows)
                heappush(bucket.heap, (entry.turn, order, entry))
            else:
                del self.entries[entry.job]
        self._add(bucket, -total)
        return parts

    def give_back(self, parts: Sequence[Part]) -> None:
        """Undo the end of what was taken last: it waits again in front of its equals."""
        for job, start, stop in reversed(parts):
            entry = self.entries.get(job)
            if entry is None:
                self._enter(Entry(job, job.arrived, stop - start, start), next(self._front))
            else:
                entry.taken, entry.left = start, entry.left + stop - start
                self._add(self.bucket(job), stop - start)

    def _enter(self, entry: Entry, order: int) -> None:
        bucket, job = self.bucket(entry.job), entry.job
        self.entries[job] = entry
        heappush(bucket.heap, (entry.turn, order, entry))
        if job.length > bucket.length:
            bucket.length = job.length
        self._add(bucket, entry.left)

    def _add(self, bucket: Bucket, rows: int) -> None:
        self.rows += rows
        bucket.rows += rows
        if not bucket.rows:
            bucket.length = 0
            bucket.heap.clear()
