"""One worker process of the service in virtual time: its own scheduler, and around it what the batcher does.

Step by step as `bentos.batching.batcher`, which says why. What takes time there is simulated: the event loop
does one thing after the other and looks for what is new once a turn, engines run in threads of their own but
for short runs, which stay on the loop, and all of them share the machine's cores.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any

import numpy as np

from bentos.batching.batcher import INLINE_SECONDS, TICK_SECONDS
from bentos.batching.scheduling import Batch, Scheduler
from bentos.errors import Expired, Refusal
from bentos.work import Job

LEAST_DELAY_SECONDS = 1e-7


class Clock:
    """Calls in the order of their times; those of one time in the order in which they were asked for."""

    def __init__(self) -> None:
        self._events: list[tuple[float, int, Callable[..., Any], tuple]] = []
        self._order = count()

    def at(self, time: float, call: Callable[..., Any], *arguments: Any) -> None:
        """`call(time, *arguments)` when that time has come."""
        heappush(self._events, (time, next(self._order), call, arguments))

    def run(self, until: float = inf) -> None:
        while self._events and self._events[0][0] <= until:
            time, _, call, arguments = heappop(self._events)
            call(time, *arguments)


@dataclass
class Cores:
    """What sessions compute on: the cores of one machine, or its GPU.

    slowdown      by the sessions that run at once, how many times as long a run takes; in between, on the
                  line, beyond the last in proportion to their number
    room          sessions that leave no core to event loops; inf on a GPU
    number        of the cores
    busy          sessions that run now
    lost_seconds  how much longer than planned every run takes, by what event loops did while no core was free
    """

    slowdown: Mapping[float, float] = field(default_factory=lambda: {1: 1.0, inf: 1.0})
    room: float = inf
    number: float = inf
    busy: int = 0
    lost_seconds: float = 0.0
    _times: dict[int, float] = field(default_factory=dict)

    def enter(self) -> float:
        """Another session runs; how many times as long it takes beside the others."""
        self.busy += 1
        if self.busy not in self._times:
            times = float(np.interp(self.busy, [*self.slowdown], [*self.slowdown.values()]))
            self._times[self.busy] = times * max(1.0, self.busy / max(self.slowdown))
        return self._times[self.busy]

    def leave(self) -> None:
        self.busy -= 1

    def interrupt(self, seconds: float) -> None:
        """An event loop worked for so long, and goes first: it slept while the sessions computed."""
        if self.busy >= self.room:
            self.lost_seconds += seconds / self.number


@dataclass(frozen=True)
class Loop:
    """Seconds of the event loop: for a request before it is admitted, for its answer, and on the way to an
    engine's thread. And how many connections clients have: on each, one request at a time."""

    parse: float = 0.0
    respond: float = 0.0
    hand_over: float = 0.0
    connections: float = inf


@dataclass(slots=True, eq=False)
class _Lane:
    """An engine and the batches it was given; `waiting` are those of them that have not begun."""

    given: deque[Batch] = field(default_factory=deque)
    waiting: deque[Batch] = field(default_factory=deque)
    is_running: bool = False
    lost_seconds: float = 0.0


class Worker:
    """Drives `scheduler` for so many engines that take `cost(rows, length)` seconds alone on a machine.

    now               seconds on the clock of its event loop, which may be behind with its work
    batches           those that ran
    answered, refused jobs, each with the time in `finished`
    busy_seconds      of all engines together
    """

    def __init__(
        self,
        scheduler: Scheduler,
        cost: Callable[[int, int], float],
        engines: int = 1,
        loop: Loop | None = None,
        cores: Cores | None = None,
        clock: Clock | None = None,
        depth: int = 2,
    ) -> None:
        self.scheduler, self.cost = scheduler, cost
        self.now = self.busy_seconds = 0.0
        self.batches: list[Batch] = []
        self.answered: list[Job] = []
        self.refused: list[Job] = []
        self._loop, self._cores, self._clock = loop or Loop(), cores or Cores(), clock or Clock()
        self._depth = depth
        self._lanes = [_Lane() for _ in range(engines)]
        self._rows_left: dict[Job, int] = {}
        self._outside: deque[Job] = deque()
        self._open = 0
        self._turn, self._timer_at, self._is_woken = 0.0, inf, False

    def at(self, time: float, call: Callable[..., Any], *arguments: Any) -> None:
        """`call(*arguments)` on the event loop, as soon as it gets there."""
        self._clock.at(time, self._do, call, arguments)

    def run(self, until: float = inf) -> None:
        self._clock.run(until)

    def arrive(self, job: Job) -> None:
        """A request is sent, as soon as a connection is free; its deadline counts from when it is parsed."""
        if self._open >= self._loop.connections:
            self._outside.append(job)
        else:
            self._open += 1
            self._receive(job)

    def _receive(self, job: Job) -> None:
        self._work(self._loop.parse)
        job.arrived = self.now
        job.deadline += self.now
        self.submit(job)

    def submit(self, job: Job) -> None:
        refusal = self.scheduler.admit(job, self.now)
        if refusal is not None:
            self._refuse(job, refusal)
        elif not self._is_woken:
            self._is_woken = True
            self.at(self._turn, self._dispatch)  # once all that this turn of the loop has found is queued

    # The event loop.

    def _do(self, ready: float, call: Callable[..., Any], arguments: tuple) -> None:
        if ready > self._turn:  # else it had come by when the loop last looked
            self.now = self._turn = max(self.now, ready)
        call(*arguments)

    def _work(self, seconds: float) -> None:
        self.now += seconds
        self._cores.interrupt(seconds)

    def _dispatch(self) -> None:
        self._is_woken = False
        now, again = self.now, inf
        self._refuse_late(self.scheduler.expire(now))
        for lane in self._lanes:
            if not lane.given:
                found = self.scheduler.next_batch(now)
                if isinstance(found, Batch):
                    self._give(lane, found, now)
                elif found is not None:
                    again = found.until
        for lane in self._lanes:
            if lane.given:
                again = min(again, self._prepare(lane, now))
        self._look_again(min(again, self.scheduler.first_expiry + TICK_SECONDS), now)

    def _look_again(self, at: float, now: float) -> None:
        if at != inf and at < self._timer_at:
            self._timer_at = at
            self.at(max(now + TICK_SECONDS / 10, at), self._time_is_up, at)

    def _time_is_up(self, at: float) -> None:
        if at == self._timer_at:  # else an earlier one took its place
            self._timer_at = inf
            self._dispatch()

    # Batches to engines.

    def _prepare(self, lane: _Lane, now: float) -> float:
        while len(lane.given) < self._depth and (full := self.scheduler.next_full_batch(now)):
            self._give(lane, full, now)
        if len(lane.given) == 1:
            return inf
        ready = lane.given[-1]
        if now > ready.deadline and lane.waiting:
            lane.waiting.pop()
            self._renew(lane, lane.given.pop(), now)
            return now + TICK_SECONDS
        return max(now, ready.deadline) + TICK_SECONDS

    def _renew(self, lane: _Lane, batch: Batch, now: float) -> None:
        in_time = {part.job for part in self.scheduler.in_time(batch, now)}
        late = {part.job: None for part in batch.parts if part.job not in in_time}
        self.scheduler.keep(batch, [part for part in batch.parts if part.job in in_time])
        self._refuse_late([*late])
        if batch.parts:
            self._give(lane, batch, now)

    def _give(self, lane: _Lane, batch: Batch, now: float) -> None:
        self._refuse_late(batch.late)
        is_idle = not lane.given
        lane.given.append(batch)
        if is_idle:
            self.scheduler.began(batch, now)
            if batch.seconds < INLINE_SECONDS:
                return self._run_inline(lane, batch)
        lane.waiting.append(batch)
        if not lane.is_running:
            self._begin(lane, self.now + self._loop.hand_over)

    def _run_inline(self, lane: _Lane, batch: Batch) -> None:
        seconds = self.cost(batch.rows, batch.length)
        self.busy_seconds += seconds
        self.batches.append(batch)
        self._work(seconds)
        self._settle(lane, batch, seconds)
        if self.scheduler.rows and not self._is_woken:
            self._is_woken = True
            self.at(self.now, self._dispatch)
        self._deliver(batch)

    def _begin(self, lane: _Lane, time: float) -> None:
        batch = lane.waiting.popleft()
        self.batches.append(batch)
        lane.is_running, lane.lost_seconds = True, self._cores.lost_seconds
        ends = time + self.cost(batch.rows, batch.length) * self._cores.enter()
        self._clock.at(ends, self._end, lane, batch, time)

    def _end(self, time: float, lane: _Lane, batch: Batch, began: float) -> None:
        """In the engine's thread, which goes on with what lies ready."""
        lost, lane.lost_seconds = self._cores.lost_seconds - lane.lost_seconds, self._cores.lost_seconds
        if lost > LEAST_DELAY_SECONDS:
            return self._clock.at(time + lost, self._end, lane, batch, began)
        self._cores.leave()
        lane.is_running = False
        self.busy_seconds += time - began
        self.at(time, self._ran, lane, batch, time - began)
        if lane.waiting:
            self._begin(lane, time)

    # Answers to jobs.

    def _ran(self, lane: _Lane, batch: Batch, seconds: float) -> None:
        self._settle(lane, batch, seconds)
        self._dispatch()
        self._deliver(batch)

    def _settle(self, lane: _Lane, batch: Batch, seconds: float) -> None:
        lane.given.popleft()
        self.scheduler.finished(batch, self.now, seconds)
        if lane.given:
            self.scheduler.began(lane.given[0], self.now)

    def _deliver(self, batch: Batch) -> None:
        for job, start, stop in batch.parts:
            if job.refusal is None:
                left = self._rows_left.pop(job, job.size) - (stop - start)
                if left:
                    self._rows_left[job] = left
                else:
                    self.answered.append(job)
                    self._finish(job)

    def _refuse_late(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._refuse(job, Expired())

    def _refuse(self, job: Job, refusal: Refusal) -> None:
        job.refusal = refusal
        self.refused.append(job)
        self._finish(job)

    def _finish(self, job: Job) -> None:
        self._work(self._loop.respond)
        job.finished = self.now
        job.done(job)
        if self._outside:
            self.at(self.now, self._receive, self._outside.popleft())
        else:
            self._open -= 1
