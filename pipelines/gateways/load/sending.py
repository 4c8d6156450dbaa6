"""One stage of load: each request is sent when it is due, whether or not earlier ones were answered."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.core.latency import Samples
from pipelines.gateways.load.wire import NO_ANSWER, Wire

GONE_AFTER_S = 1.0
"""A target that has refused connections for so long, and answered nothing meanwhile, will not come back."""
LOOK_S = 0.05
AT_ONCE = 32
"""So many requests are sent before answers are looked at, however many are due."""
UNANSWERED = -1
WAITING = -1.0


class Sending:
    """`times` are those of `Offer.times`; `first` is the turn of the first request, and `look` is called
    about every LOOK_S seconds. Where `clients` are limited, what none of them was free for is dropped.

    sent       how many were sent
    answers    the numbers of those that ended, in that order; ended_s and status by number
    gone       the target is, and the rest is not sent
    """

    def __init__(
        self,
        times: np.ndarray,
        wire: Wire,
        timeout_s: float,
        first: int,
        look: Callable[["Sending"], None],
        is_limited: bool = False,
    ) -> None:
        self.due_s: list[float] = times.tolist()
        self.planned, self.sent, self.gone = len(times), 0, False
        self.sent_s, self.ended_s = [0.0] * self.planned, [0.0] * self.planned
        self.started_s = [WAITING] * self.planned
        self.status, self.answers = [UNANSWERED] * self.planned, []
        self._wire, self._timeout_s, self._first, self._look = wire, timeout_s, first, look
        self._oldest, self._refused_since, self._is_limited = 0, None, is_limited

    async def run(self) -> Samples:
        """Returns when every request has ended, or the target is gone. Raises what `look` raises, and
        LoadTestInvalid where this machine has no more connections to give."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._surprised)
        self._done, self._start = self._loop.create_future(), self._loop.time()
        self._wire.listener = self
        self._send_due()
        while not self._done.done():
            await asyncio.wait([self._done], timeout=LOOK_S)
            self._give_up(self.now_s() - self._timeout_s)
            self._look(self)
            if self._is_limited and self.sent == self.planned:
                self._drop_waiting()
        self._done.result()
        self._give_up(float("inf"))
        return self._samples()

    def now_s(self) -> float:
        """Since the stage began."""
        return self._loop.time() - self._start

    def started(self, turn: int) -> None:
        self.started_s[turn - self._first] = self._loop.time() - self._start

    def ended(self, turn: int, status: int) -> None:
        number = turn - self._first
        self.ended_s[number], self.status[number] = self._loop.time() - self._start, status
        self.answers.append(number)
        if status:
            self._refused_since = None
        if len(self.answers) == self.planned:
            self._end()

    def refused(self) -> None:
        now_s = self.now_s()
        if self._refused_since is None:
            self._refused_since = now_s
        elif now_s - self._refused_since > GONE_AFTER_S:
            self.gone = True
            self._end()

    def broken(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def _send_due(self) -> None:
        """Send what is due, and come back when the next is."""
        due_s, number, time, start = self.due_s, self.sent, self._loop.time, self._start
        last = min(self.planned, number + AT_ONCE)
        while number < last and due_s[number] <= (now_s := time() - start) and not self._done.done():
            self.sent_s[number], self.sent = now_s, number + 1
            self._wire.send(self._first + number)
            number += 1
        if number < self.planned and not self._done.done():
            self._loop.call_at(self._start + due_s[number], self._send_due)

    def _give_up(self, sent_before_s: float) -> None:
        """What was sent before and has no answer ends without one."""
        while self._oldest < self.sent:
            if self.status[self._oldest] == UNANSWERED:
                if self.sent_s[self._oldest] > sent_before_s:
                    return
                self._wire.drop(self._first + self._oldest)
                self.ended(self._first + self._oldest, NO_ANSWER)
            self._oldest += 1

    def _drop_waiting(self) -> None:
        """What no client was free for, the oldest first."""
        for number in range(self._oldest, self.sent):
            if self.started_s[number] == WAITING and self.status[number] == UNANSWERED:
                self._wire.drop(self._first + number)
                self.ended(self._first + number, NO_ANSWER)

    def _end(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _surprised(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A mistake in a callback must end the run, not leave it waiting."""
        self.broken(context.get("exception") or RuntimeError(context["message"]))

    def _samples(self) -> Samples:
        times = (self.due_s, self.sent_s, self.ended_s)
        intended_s, sent_s, ended_s = (np.array(values[: self.sent], float) for values in times)
        status = np.array(self.status[: self.sent], np.int64)
        if not self._is_limited:
            return Samples(intended_s, sent_s, (ended_s - intended_s) * 1000, status)
        started_s = np.array(self.started_s[: self.sent], float)
        was = started_s != WAITING
        return Samples(started_s[was], started_s[was], (ended_s - started_s)[was] * 1000, status[was])
