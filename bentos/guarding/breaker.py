"""What keeps a failing model from being asked again and again, and what is answered in its place.

The circuit breaker is Nygard's (Release It!, 2007): closed, open after failures in a row, half-open after a
while. The fallback is declared by the release, so nobody meets it by surprise.
"""

import time
from collections.abc import Callable

import numpy as np

from bentos.contract import Contract, ContractViolation, default_row
from bentos.guarding.cache import Cache
from bentos.manifest import Plan
from bentos.work import Job, Tensors

FALLBACKS = ("none", "cached", "default")


class FallbackInvalid(ValueError):
    """The plan declares a fallback that could not answer; the service does not start with it."""


class Breaker:
    """Opens after `failures` whole model runs in a row that answered no row, with none between that did: one
    client's poisonous rows, which fail beside rows that succeed, do not open it. Once `seconds` have passed,
    one request in each `seconds` may try, and the first run that succeeds closes it. For one thread.

    `changed` is told True when it opens and False when it closes.
    """

    def __init__(
        self,
        failures: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[bool], None] = lambda is_open: None,
    ) -> None:
        self._limit, self._seconds, self._clock, self._changed = failures, seconds, clock, changed
        self._failures = 0
        self._next_try = 0.0
        self.is_open = False

    def allows(self) -> bool:
        """Whether a request may go to the model. While it is open, True is the turn to try."""
        if not self.is_open:
            return True
        now = self._clock()
        if now < self._next_try:
            return False
        # A turn may come to nothing, its client may leave: then the next one is `seconds` away, not lost.
        self._next_try = now + self._seconds
        return True

    def ran(self, ok: bool) -> None:
        """A whole run has ended; `ok` if any of its rows was answered, be it after the batch was split."""
        if ok:
            self._failures = 0
            self._turn(False)
            return
        self._failures += 1
        if self._failures >= self._limit:
            self._next_try = self._clock() + self._seconds
            self._turn(True)

    def _turn(self, is_open: bool) -> None:
        if is_open != self.is_open:
            self.is_open = is_open
            self._changed(is_open)


class Fallback:
    """What is answered while the circuit breaker is open. Raises FallbackInvalid where the plan's declaration
    does not fit the contract."""

    def __init__(self, plan: Plan, contract: Contract, cache: Cache | None) -> None:
        if plan.fallback not in FALLBACKS:
            raise FallbackInvalid(f"fallback is one of {', '.join(FALLBACKS)}, not {plan.fallback!r}.")
        if plan.fallback == "cached" and cache is None:
            raise FallbackInvalid("The fallback cached needs a cache: set cache_seconds above 0.")
        self._cache = cache if plan.fallback == "cached" else None
        self._row = None
        if plan.fallback == "default":
            try:
                self._row = default_row(contract, plan.default_answer or {})
            except ContractViolation as error:
                place = f"default_answer.{error.field}" if error.field else "default_answer"
                raise FallbackInvalid(f"{place} {error.reason}.") from error

    def answer(self, job: Job) -> Tensors | None:
        """The outputs for the job's rows; None where nothing is declared or nothing is remembered."""
        if self._row is not None:
            return {name: np.repeat(value[None], job.size, axis=0) for name, value in self._row.items()}
        return self._cache.stale(self._cache.key(job)) if self._cache is not None else None
