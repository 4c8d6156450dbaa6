"""What keeps a failing model from being asked again and again, and what is answered in its place.

The circuit breaker is Nygard's (Release It!, 2007): closed, open after failures in a row, half-open after a
while. The fallback is declared by the release, so nobody meets it by surprise.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bentos.contract import Contract, Field
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
            self._row = _default_row(contract, plan.default_answer or {})

    def answer(self, job: Job) -> Tensors | None:
        """The outputs for the job's rows; None where nothing is declared or nothing is remembered."""
        if self._row is not None:
            return {name: np.repeat(value[None], job.size, axis=0) for name, value in self._row.items()}
        return self._cache.stale(self._cache.key(job)) if self._cache is not None else None


def _default_row(contract: Contract, answer: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The plan's answer as one array an output, without the batch."""
    given, wanted = sorted(answer), sorted(field.name for field in contract.outputs)
    if given != wanted:
        raise FallbackInvalid(f"default_answer has {given}, the model's outputs are {wanted}.")
    return {field.name: _value(field, answer[field.name]) for field in contract.outputs}


def _value(field: Field, given: Any) -> np.ndarray:
    try:
        value = np.asarray(given)
        with np.errstate(all="ignore"):
            numbers = value.astype(field.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise FallbackInvalid(f"default_answer.{field.name} is not {field.dtype}.") from error
    fits = value.ndim == len(field.shape) - 1 and all(
        size == wanted or (wanted == -1 and size > 0)
        for size, wanted in zip(value.shape, field.shape[1:], strict=True)
    )
    if not fits:
        raise FallbackInvalid(
            f"default_answer.{field.name} has shape {value.shape}, a row of it has {field.shape[1:]}."
        )
    is_float = numbers.dtype.kind == "f"
    if value.dtype.kind not in "biuf" or not (is_float or np.array_equal(numbers, value)):
        raise FallbackInvalid(f"default_answer.{field.name} is not {field.dtype}.")
    if is_float and not (field.nullable or np.isfinite(numbers).all()):
        raise FallbackInvalid(f"default_answer.{field.name} is not finite.")
    return numbers
