"""What each arm has to answer for: lines of the access log, latencies and answers, counted.

Only counts are kept, so that a rollout of days takes no more memory than one of minutes.
"""

import math
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, Literal

import numpy as np

from pipelines.core.rollout.observation import Arm, ArmName, Moments
from pipelines.core.rollout.quantiles import ENDS_MS

SAYS_NOTHING = ("DC", "RL")
"""Envoy's flags of requests whose client left, and of those that its own rate limit refused."""
TOGETHER_SECONDS = 2.0
"""For so long at most, requests are sent to a service that is gone, until health checks have told of it."""
FACTS = itemgetter("arm", "release", "status", "flags", "attempts", "method", "forced")

Fate = Literal["succeeded", "failed", "broke_off"]


class ArmTally:
    """What was counted of one arm; nothing is ever taken off."""

    def __init__(self, bins: int = 0) -> None:
        self.requests = self.errors = 0
        self._gone_until = -math.inf
        self._latencies = np.zeros(len(ENDS_MS), np.int64)
        self._predictions = np.zeros(bins, np.int64)

    def failed(self) -> None:
        """One was answered with an error, or by nobody."""
        self.requests += 1
        self.errors += 1

    def broke_off(self, at: float) -> None:
        """One that began `at` was not answered, but by another service in its place.

        Those that broke off one after the other, with no success between, are one failure: a service that
        dies takes along whatever it has and is sent, and this happened once, however many there were. Bounds
        that hold for failures that are independent would not hold for these.
        """
        if at >= self._gone_until:
            self._gone_until = at + TOGETHER_SECONDS
            self.failed()

    def is_there(self) -> None:
        """It answered well, and whatever breaks off from now on does so anew."""
        self._gone_until = -math.inf

    def took(self, times_ms: Iterable[float]) -> None:
        """Latencies of answers."""
        at = np.searchsorted(ENDS_MS, np.fromiter(times_ms, float), side="left")
        self._latencies += np.bincount(at, minlength=len(ENDS_MS))

    def answered(self, counts: Iterable[int]) -> None:
        """Answers by bin."""
        self._predictions += np.fromiter(counts, np.int64)

    def arm(self, metrics: Mapping[str, Moments] | None = None, with_predictions: bool = True) -> Arm:
        """As it is now. Where no answer is known, there are no predictions: none at all is not "none in each
        bin"."""
        upto = self._latencies.cumsum().tolist()
        known = with_predictions and self._predictions.any()
        predictions = self._predictions.tolist() if known else ()
        latencies = tuple(zip(ENDS_MS, upto, strict=True))
        return Arm(self.requests, self.errors, latencies, predictions, metrics or {})


def whose(line: Mapping[str, Any], releases: Mapping[str, ArmName]) -> tuple[ArmName, Fate] | None:
    """The arm that has to answer for a line of the access log, and what became of the request; None where
    the line says nothing of either. `releases` are the arms by their release ids.

    A request belongs to the arm that it was meant for. Where another release answered after the first
    attempt, the arm broke off; at the first attempt, it was known to be away and not asked. An answer that
    bears no release is the router's own, given for the arm: a refused connection, a timeout, too many
    requests at once.

    Failures are status 500 and above, no answer, and a service's 429: it has no room for what it should
    carry. Left out are requests that say nothing of a release: no predictions, those forced to an arm,
    which are tests, those whose client left or sent too many. So are all other 4xx, which are mistakes of
    clients: as successes, they would make a release that refuses everything look sound; as failures, one
    client with a loop would roll back whatever it is sent to. A release that refuses more than the other one
    is then short of requests, which the test of the split tells.
    """
    return _whose(FACTS(line), releases)


def _whose(facts: tuple, releases: Mapping[str, ArmName]) -> tuple[ArmName, Fate] | None:
    arm, release, status, flags, attempts, method, forced = facts
    status = status or 0
    if method != "POST" or forced or arm not in ("stable", "canary"):
        return None
    if any(flag in SAYS_NOTHING for flag in (flags or "").split(",")):
        return None
    if release and releases.get(release) != arm:
        return (arm, "broke_off") if release in releases and (attempts or 0) > 1 else None
    if status == 0 or status >= 500 or (status == 429 and bool(release)):
        return arm, "failed"
    return None if status >= 400 else (arm, "succeeded")


def count(
    lines: Iterable[Mapping[str, Any]], releases: Mapping[str, ArmName], tallies: Mapping[ArmName, ArmTally]
) -> None:
    """Add lines of the access log, in its order, to the `tallies`, by arm. Latencies are of successes only:
    how quickly something fails makes it no better."""
    known: dict[tuple, tuple[ArmName, Fate] | None] = {}  # most lines are alike, and this has to keep up
    times_us: dict[ArmName, list[float | None]] = {arm: [] for arm in tallies}
    for line in lines:
        facts = FACTS(line)
        if facts not in known:
            known[facts] = _whose(facts, releases)
        found = known[facts]
        if found is None or found[0] not in tallies:
            continue
        arm, fate = found
        if fate == "succeeded":
            times_us[arm].append(line["us"])
            tallies[arm].is_there()
        elif fate == "failed":
            tallies[arm].failed()
        else:
            tallies[arm].broke_off(float(line["at"]))
    for arm, times in times_us.items():
        tallies[arm].requests += len(times)
        tallies[arm].took(us / 1000 for us in times if us is not None)


class Rises:
    """By how much the counters of a process rose since they were first seen. Where one fell, the process
    was started again, and all rose from zero."""

    def __init__(self) -> None:
        self._last: dict[Any, float] = {}
        self._risen: dict[Any, float] = {}

    def see(self, counters: Mapping[Any, float]) -> dict[Any, float]:
        """The rise of each counter by its key."""
        fell = any(value < self._last.get(key, value) for key, value in counters.items())
        for key, value in counters.items():
            before = 0.0 if fell else self._last.get(key, value)
            self._risen[key] = self._risen.get(key, 0.0) + value - before
        self._last = dict(counters)
        return dict(self._risen)
