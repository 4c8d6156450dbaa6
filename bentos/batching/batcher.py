"""The adaptive batcher: jobs of all ways in share runs of the model. `Scheduler` decides, this carries out.

    submit ─▶ Scheduler ─▶ one turn of the event loop later: a batch ─▶ an engine's thread, or inline ─▶ done

While an engine runs, more jobs may join the next batch; once that is full it lies ready in the engine's
inbox, so that at saturation the engine never waits for the event loop. No request has a Task or a Future
here: that would cost more than all the rest. Only the monotonic clock is read.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

from bentos.batching.assembly import Assembly
from bentos.batching.attempts import Attempt, Runs, attempt
from bentos.batching.costs import Costs
from bentos.batching.scheduling import Batch, Scheduler
from bentos.batching.waiting import Part
from bentos.batching.workers import Worker
from bentos.contract import Contract
from bentos.errors import Expired, Left, ModelFailed, Refusal, Unavailable
from bentos.manifest import Plan
from bentos.watching.metrics import Metrics
from bentos.work import Job, Tensors

logger = logging.getLogger(__name__)

INLINE_SECONDS = 250e-6
"""A shorter run stays on the event loop. To a thread and back takes 55 µs beside an idle loop, but 270 µs,
and now and then tens of milliseconds, beside a busy one that holds the GIL."""
TICK_SECONDS = 1e-3
"""What the event loop's timers are good for."""


@dataclass(slots=True, eq=False)
class _Lane:
    """An engine, its threads, and the batches it was given: `depth` of them, the last lies ready."""

    engine: Runs
    worker: Worker
    depth: int
    given: deque[Batch] = field(default_factory=deque)
    last_ended: float = -inf


class Batcher:
    """One a process, for one event loop, on which all methods are called. `on_run` hears after each batch
    whether any of it was answered."""

    def __init__(
        self,
        engines: Sequence[Runs],
        contract: Contract,
        plan: Plan,
        metrics: Metrics,
        costs: Costs | None = None,
        clock: Callable[[], float] = time.monotonic,
        worker: Callable[[asyncio.AbstractEventLoop, int], Worker] = Worker,
    ) -> None:
        costs = costs or Costs(plan.costs, plan.max_batch_size, plan.lengths)
        self._scheduler = Scheduler(plan, costs, len(engines))
        self._engines, self._assembly, self._metrics = engines, Assembly(contract), metrics
        self._clock, self._worker = clock, worker
        self._lanes: list[_Lane] = []
        self._open: set[Job] = set()
        self._pieces: dict[Job, dict[int, Tensors]] = {}
        self._drained: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._is_woken = self._is_closed = False
        self.on_run: Callable[[bool], Any] | None = None

    @property
    def queued_rows(self) -> int:
        """Rows that wait and are in no batch yet."""
        return self._scheduler.rows

    def submit(self, job: Job) -> None:
        """Answer a job or refuse it. Never raises; `done` is called once, perhaps at once."""
        self._open.add(job)
        if not self._lanes:
            self._start()
        refusal = self._turned_away(job) or self._scheduler.admit(job, self._clock())
        if refusal is None:
            self._wake()
        else:
            self._finish(job, refusal)

    def cancel(self, job: Job) -> None:
        """The client left: what has not begun of the job is dropped, what runs is for nobody."""
        job.cancelled = True
        self._finish(job, Left())

    async def drain(self) -> None:
        """Return when nothing waits or runs."""
        if self._is_busy():
            self._drained.append(asyncio.get_running_loop().create_future())
            await self._drained[-1]

    def close(self) -> None:
        """End the threads; what still waits, and what comes later, is refused."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for job in list(self._open):
            self._finish(job, Unavailable("shutting down"))
        for lane in self._lanes:
            lane.worker.close()

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for engine in self._engines:
            overlap = getattr(engine, "overlap", 1)
            self._lanes.append(_Lane(engine, self._worker(self._loop, overlap), overlap + 1))

    def _turned_away(self, job: Job) -> Refusal | None:
        if job.cancelled:
            return Left()
        return Unavailable("shutting down") if self._is_closed else None

    # Batches to engines.

    def _wake(self) -> None:
        """Look for a batch once all that arrived in this turn of the loop is queued."""
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_woken = False
        if self._is_closed:
            return
        now, again = self._clock(), inf
        self._refuse_late(self._scheduler.expire(now))
        for lane in self._lanes:
            if not lane.given:
                found = self._scheduler.next_batch(now)
                if isinstance(found, Batch):
                    self._give(lane, found, now)
                elif found is not None:
                    again = found.until
        for lane in self._lanes:
            if lane.given:
                again = min(again, self._prepare(lane, now))
        _quietly(self._metrics.queue, self._scheduler.rows)
        self._look_again(min(again, self._scheduler.first_expiry + TICK_SECONDS), now)

    def _prepare(self, lane: _Lane, now: float) -> float:
        """Lay a full batch ready for a busy engine. If that lies there too long, because a run stalls, refuse
        who is late by now. Returns when to look again."""
        while len(lane.given) < lane.depth and (full := self._scheduler.next_full_batch(now)):
            self._give(lane, full, now)
        ready = lane.given[-1]
        if len(lane.given) == 1:
            return inf
        if now > ready.deadline and lane.worker.take_back():
            self._renew(lane, lane.given.pop(), now)
            return now + TICK_SECONDS
        return max(now, ready.deadline) + TICK_SECONDS

    def _renew(self, lane: _Lane, batch: Batch, now: float) -> None:
        late = {part.job for part in batch.parts} - {part.job for part in self._scheduler.in_time(batch, now)}
        self._scheduler.keep(batch, [part for part in batch.parts if part.job not in late])
        self._refuse_late(late)
        if batch.parts:
            self._give(lane, batch, now)

    def _give(self, lane: _Lane, batch: Batch, now: float) -> None:
        self._refuse_late(batch.late)
        for job, _, _ in batch.parts:
            if not job.started:
                job.started = now
                _quietly(self._metrics.waited, now - job.arrived)
        is_idle = not lane.given
        lane.given.append(batch)
        run = partial(attempt, lane.engine, self._assembly, self._clock, batch.parts)
        if not is_idle:
            lane.worker.give(partial(run, self._assembled(batch.parts)), partial(self._ran, lane, batch))
            return
        self._scheduler.began(batch, now)
        if batch.seconds < INLINE_SECONDS:
            made = run()
            try:
                self._settle(lane, batch, made)
                if self._scheduler.rows:  # others are read first, and may share the next batch
                    self._wake()
            finally:
                self._deliver(batch, made)
        else:
            lane.worker.give(run, partial(self._ran, lane, batch))

    def _assembled(self, parts: list[Part]) -> Tensors | None:
        """Made while the engine is busy. None where that fails: the attempt finds out whose fault it is."""
        try:
            return self._assembly.inputs(parts)
        except Exception:  # noqa: BLE001  (whatever it is, the attempt meets it again and answers it)
            return None

    def _look_again(self, at: float, now: float) -> None:
        if at == inf or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(TICK_SECONDS / 10, at - now), self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self._dispatch()

    # Answers to jobs.

    def _ran(self, lane: _Lane, batch: Batch, made: Attempt) -> None:
        """On the loop again: first the engine gets its next batch, then the clients their answers."""
        try:
            self._settle(lane, batch, made)
            self._dispatch()
        finally:
            self._deliver(batch, made)

    def _settle(self, lane: _Lane, batch: Batch, made: Attempt) -> None:
        now = self._clock()
        was_first = lane.given[0] is batch
        lane.given.remove(batch)
        if not was_first:
            self._scheduler.began(batch, now)
        took = made.ended - max(made.began, lane.last_ended) if made.is_clean else None
        lane.last_ended = made.ended
        self._scheduler.finished(batch, now, took)
        if was_first and lane.given:
            self._scheduler.began(lane.given[0], now)

    def _deliver(self, batch: Batch, made: Attempt) -> None:
        assembled = made.assembled or made.ended
        _quietly(
            self._metrics.batch, batch.rows, len(batch.parts), assembled - made.began, made.ended - assembled
        )
        if self.on_run is not None and made.runs:
            _quietly(self.on_run, bool(made.answered))
        for part, answer in made.answered:
            self._answer(part, answer)
        for job, error in made.failed:
            self._fail(job, error)
        if self._drained and not self._is_busy():
            self._tell_drained()

    def _answer(self, part: Part, answer: Tensors) -> None:
        job, start, stop = part
        if job not in self._open:
            return
        if stop - start < job.size:
            pieces = self._pieces.setdefault(job, {})
            pieces[start] = answer
            if sum(len(next(iter(piece.values()))) for piece in pieces.values()) < job.size:
                return
            answer = self._assembly.whole([pieces[start] for start in sorted(pieces)])
        job.outputs = answer
        self._finish(job)

    def _fail(self, job: Job, error: BaseException) -> None:
        if job not in self._open:
            return
        _quietly(self._metrics.model_failed, getattr(error, "kind", "raised"))
        refusal = ModelFailed()
        refusal.__cause__ = error
        self._finish(job, refusal)

    def _refuse_late(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._finish(job, Expired())

    def _finish(self, job: Job, refusal: Refusal | None = None) -> None:
        """The one place where `done` is called, once for each job."""
        if job not in self._open:
            return
        self._open.remove(job)
        self._pieces.pop(job, None)
        if refusal is not None:
            job.refusal = refusal
            self._scheduler.remove(job)
        job.finished = self._clock()
        _quietly(job.done, job)
        if self._drained and not self._is_busy():
            self._tell_drained()

    def _is_busy(self) -> bool:
        return bool(self._open) or any(lane.given for lane in self._lanes)

    def _tell_drained(self) -> None:
        waiting, self._drained = self._drained, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


def _quietly(call: Callable[..., Any], *arguments: Any) -> None:
    """What others do with what they are told must not hurt the other jobs."""
    try:
        call(*arguments)
    except Exception:  # any code of theirs may raise anything; it is logged
        logger.exception("a callback of the batcher failed")
