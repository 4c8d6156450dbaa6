"""Which waiting rows form the next batch, who is let in and who is too late: decisions only. No clock, no
thread, no event loop: every method is told what time it is, so that a simulator can drive it too.

A free engine takes what waits at once. The bucket of lengths whose first job has the earliest deadline goes
first, and others fill its batch where that is cheaper than a run of their own. A batch is cut where one more
job would make another late. The one exception to taking at once: rows that are about to come back
(`bentos.batching.returns`) are waited for while that promises more rows a second.

With too much work, who is late goes rather than the batch gets small, since small batches make all others
late ("early drop" in Nexus, Shen et al., SOSP 2019). The turns of a large request's chunks are start-time
fair queueing (Goyal et al., 1996).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from bentos.batching.costs import Costs
from bentos.batching.forecast import Forecast
from bentos.batching.returns import Returns
from bentos.batching.waiting import Bucket, Entry, Part, Waiting
from bentos.errors import Expired, Overloaded, Refusal
from bentos.manifest import Plan
from bentos.work import Job

SLACK = 1.1
"""Predicted waiting times are taken this much longer: what is let in should also be in time."""
PROBE_SECONDS = 1.0
"""An engine idle for so long tries what comes, whatever is predicted: a wrong prediction must not last."""
TURN = 2.0
"""A request larger than a batch gets its next chunk after what arrives within this many times the last one's
run: half of a busy engine."""


@dataclass(slots=True, eq=False)
class Batch:
    """Parts of different jobs that run together. `seconds` is what the run should take; it should end at
    `ends`, once it began. `late` are jobs that were let go to keep it full."""

    parts: list[Part]
    late: list[Job] = field(default_factory=list)
    rows: int = 0
    length: int = 0
    deadline: float = inf
    seconds: float = 0.0
    ends: float = 0.0


class Hold(NamedTuple):
    """Nothing is to run before `until`, unless more arrives."""

    until: float


class Scheduler:
    """The queue of one process, for `engines` that run a batch each at a time; None: the plan's replicas."""

    def __init__(self, plan: Plan, costs: Costs, engines: int | None = None) -> None:
        self._plan, self._most, self._engines = plan, plan.max_batch_size, engines or plan.replicas
        self._forecast = Forecast(plan, costs)
        self._waiting = Waiting(plan.lengths)
        self._formed: list[Batch] = []
        self._running: list[Batch] = []
        self._returns = Returns()
        self._idle_since = -inf
        self.first_expiry = inf

    @property
    def rows(self) -> int:
        """That wait and are in no batch yet."""
        return self._waiting.rows

    def admit(self, job: Job, now: float) -> Refusal | None:
        """Queue a job, or say why it cannot be answered in time."""
        if job.deadline <= now:
            return Expired()
        wait = self._wait(job, now)
        crowded = self.rows and self.rows + job.size > self._bound()
        is_probe = not self.rows and self._rusty(now)
        if crowded or (now + wait > job.deadline and not is_probe):
            return Overloaded(wait * 1000, (job.deadline - now) * 1000)
        self._returns.arrived(job.size, now)
        self._waiting.push(job)
        self.first_expiry = min(self.first_expiry, job.deadline - self._forecast.drain(job.size, job.length))
        return None

    def next_batch(self, now: float) -> Batch | Hold | None:
        """What a free engine is to run; None when nothing waits. Tell `began` when it runs."""
        if not self.rows:
            return None
        return self._hold(now) or self._form(now)

    def next_full_batch(self, now: float) -> Batch | None:
        """What a busy engine is to run next, once no late-comer could join it any more."""
        if self.rows < self._most or self._most_urgent().rows < self._most:
            return None
        return self._form(max(now, min((batch.ends for batch in self._running), default=now)))

    def began(self, batch: Batch, now: float) -> None:
        self._formed.remove(batch)
        self._running.append(batch)
        batch.ends = now + batch.seconds

    def finished(self, batch: Batch, now: float, seconds: float | None = None) -> None:
        """A batch that began is done, in `seconds` where that says something about its cost."""
        self._running.remove(batch)
        self._idle_since = now
        if seconds is not None:
            self._forecast.observe(batch.rows, batch.length, seconds)
        self._returns.completed(
            batch.rows, self._forecast.window(batch.rows, batch.length) / self._engines, now
        )

    def remove(self, job: Job) -> bool:
        """Forget what waits of a job; whether anything did."""
        return self._waiting.remove(job)

    def expire(self, now: float) -> list[Job]:
        """Take out the jobs that could not be in time even if they ran alone and now."""
        if now <= self.first_expiry:
            return []
        trust = 0.0 if self._rusty(now) else 1.0
        latest = {
            job: job.deadline - trust * self._forecast.drain(entry.left, job.length)
            for job, entry in self._waiting.entries.items()
        }
        late = [job for job, start in latest.items() if start < now]
        for job in late:
            self.remove(job)
        self.first_expiry = min((start for start in latest.values() if start >= now), default=inf)
        return late

    def keep(self, batch: Batch, parts: list[Part]) -> None:
        """Only these parts are to run of a batch that did not begin; none: forget it."""
        self._measure(batch, parts)
        if not parts:
            self._formed.remove(batch)

    def _measure(self, batch: Batch, parts: list[Part]) -> None:
        batch.parts = parts
        batch.rows = sum(stop - start for _, start, stop in parts)
        batch.length = max((part.job.length for part in parts), default=0)
        batch.deadline = min((part.job.deadline for part in parts), default=inf)
        batch.seconds = self._forecast.seconds(batch.rows, batch.length) if parts else 0.0

    def in_time(self, batch: Batch, now: float) -> list[Part]:
        """The parts that would be in time if they ran alone and now."""
        return [
            p
            for p in batch.parts
            if now + self._forecast.seconds(p.stop - p.start, p.job.length) <= p.job.deadline
        ]

    def _wait(self, job: Job, now: float) -> float:
        """Seconds until a job would be answered. A run that is overdue is taken to need as long again."""
        costs, bucket = self._forecast, self._waiting.bucket(job)
        own = costs.seconds(min(job.size, self._most), job.length)
        ahead = sum([abs(batch.ends - now) for batch in self._running])
        ahead += sum([batch.seconds for batch in self._formed])
        length = max(bucket.length, job.length)
        queued = costs.drain(costs.filled(bucket.rows + job.size), length)
        if self.rows > bucket.rows:
            others = [other for other in self._waiting.buckets if other.rows and other is not bucket]
            queued += sum(costs.drain(other.rows, other.length) for other in others)
            longest = max(length, *(other.length for other in others))
            queued = min(queued, costs.drain(costs.filled(self.rows + job.size), longest))
        return own + max(0.0, ahead + queued - own) * SLACK / self._engines

    def _bound(self) -> float:
        """How many rows may wait: as the plan says, or what can be answered in the time a request has."""
        if self._plan.max_queue_rows is not None:
            return self._plan.max_queue_rows
        runs = (
            self._plan.max_latency_ms
            / 1000
            / self._forecast.seconds(self._most, min(self._plan.lengths, default=0))
        )
        return max(1.0, runs) * self._most * self._engines

    def _rusty(self, now: float) -> bool:
        return not self._running and now - self._idle_since > PROBE_SECONDS

    # Waiting for rows that are about to come back.

    def _hold(self, now: float) -> Hold | None:
        """Wait while the next row to come back, or all of them, would make a faster batch. They are taken to
        come evenly until the last usually does; a deadline is never waited past."""
        due = self._returns.due(now)
        room = min(due, self._most - self.rows)
        if room <= 0:
            return None
        length = max(bucket.length for bucket in self._waiting.buckets)
        rate = self.rows / self._forecast.seconds(self.rows, length)
        left = self._returns.until - now
        for more in {1, room}:
            rows = self.rows + more
            together = self._forecast.seconds(rows, length)
            if rows / (left * more / due + together) > rate:
                until = min(now + left, self.first_expiry - together)
                return Hold(until) if until > now else None
        return None

    # Forming a batch.

    def _most_urgent(self) -> Bucket:
        return min((b for b in self._waiting.buckets if b.rows), key=lambda bucket: bucket.head.deadline)

    def _form(self, start: float) -> Batch:
        """A batch that is to begin at `start` and be in time for all that is in it."""
        first = self._most_urgent()
        length, parts = first.length, self._take(first, self._most, start)
        rows = sum(stop - begin for _, begin, stop in parts)
        for bucket in self._waiting.buckets:
            more = min(self._most - rows, bucket.rows)
            if more and self._is_cheaper(rows, length, more, bucket):
                rows, length = rows + more, max(length, bucket.length)
                parts += self._take(bucket, more, start)
        batch = Batch(parts)
        self._formed.append(batch)
        self.keep(batch, parts)
        while start + batch.seconds * SLACK > batch.deadline and self._is_trimmed(batch, first, start):
            pass
        return batch

    def _is_trimmed(self, batch: Batch, bucket: Bucket, start: float) -> bool:
        """Cut a batch that would be late for some, if what is cut off can follow. Else there is too much
        work, and those who are late go, so that the batch stays full. False when no more is to be done."""
        parts, ends = batch.parts, start + batch.seconds * SLACK
        fits = self._fitting(parts, start)
        first, rest = Batch([]), Batch([])
        in_time = [part for part in parts if part.job.deadline >= ends]
        self._measure(first, parts[:fits])
        self._measure(rest, parts[fits:])
        if not in_time or start + (first.seconds + rest.seconds) * SLACK <= rest.deadline:
            self._waiting.give_back(parts[fits:])
            self.keep(batch, parts[:fits])
            return False
        for job in {part.job: None for part in parts if part.job.deadline < ends}:
            self.remove(job)
            batch.late.append(job)
        room = self._most - sum(stop - begin for _, begin, stop in in_time)
        self.keep(batch, in_time + self._take(bucket, room, start))
        return True

    def _take(self, bucket: Bucket, most: int, start: float) -> list[Part]:
        def pause(entry: Entry, rows: int) -> float:
            """0 when a run of others in between could make the job late: what was let in gets ready."""
            runs = self._forecast.seconds(rows, bucket.length) + self._forecast.seconds(
                self._most, bucket.length
            )
            needs = runs + self._forecast.drain(entry.left, bucket.length) * SLACK
            is_short = start + needs > entry.job.deadline
            return 0.0 if is_short else TURN * self._forecast.seconds(rows, bucket.length)

        return self._waiting.take(bucket, most, pause)

    def _is_cheaper(self, rows: int, length: int, more: int, bucket: Bucket) -> bool:
        """Whether a batch of `rows` should take `more` rows from another bucket."""
        joint = self._forecast.seconds(rows + more, max(length, bucket.length))
        without = self._forecast.drain(bucket.rows - more, bucket.length)
        return (
            joint - self._forecast.seconds(rows, length)
            < self._forecast.drain(bucket.rows, bucket.length) - without
        )

    def _fitting(self, parts: Sequence[Part], start: float) -> int:
        """How many of the first parts make a batch that is in time for each of them; at least one."""
        rows, length, deadline, fits = 0, 0, inf, 1
        for at, (job, begin, stop) in enumerate(parts, start=1):
            rows, length = rows + stop - begin, max(length, job.length)
            deadline = min(deadline, job.deadline)
            if start + self._forecast.seconds(rows, length) * SLACK <= deadline:
                fits = at
        return fits
