"""What each arm has to answer for: lines of the access log, latencies and answers, counted.

Only counts are kept, so that a rollout of days takes no more memory than one of minutes.
"""

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

import numpy as np

from pipelines.core.rollout.observation import Arm, ArmName, Moments
from pipelines.core.rollout.quantiles import ENDS_MS

SAYS_NOTHING = ("DC", "RL")
"""Envoy's flags of requests whose client left, and of those that its own rate limit refused."""
FACTS = itemgetter("arm", "release", "status", "flags", "attempts", "method", "forced")


class Tally:
    """What was counted of one arm; nothing is ever taken off."""

    def __init__(self, bins: int = 0) -> None:
        self.requests = self.errors = 0
        self._latencies = np.zeros(len(ENDS_MS), np.int64)
        self._predictions = np.zeros(bins, np.int64)

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


def whose(line: Mapping[str, Any], releases: Mapping[str, ArmName]) -> tuple[ArmName, bool] | None:
    """The arm that has to answer for a line of the access log, and whether it failed; None where the line
    says nothing of either. `releases` are the arms by their release ids.

    A request belongs to the arm that it was meant for. What another release answered after the first attempt
    is a failure of that arm, which broke off; at the first attempt, the arm was known to be away and not
    asked. An answer that bears no release is the router's own, given for the arm: a refused connection, a
    timeout, too many requests at once.

    Failures are status 500 and above, no answer, and a service's 429: it has no room for what it should
    carry. Left out are requests that say nothing of a release: no predictions, those forced to an arm,
    which are tests, those whose client left or sent too many. So are all other 4xx, which are mistakes of
    clients: as successes, they would make a release that refuses everything look sound; as failures, one
    client with a loop would roll back whatever it is sent to. A release that refuses more than the other one
    is then short of requests, which the test of the split tells.
    """
    return _whose(FACTS(line), releases)


def _whose(facts: tuple, releases: Mapping[str, ArmName]) -> tuple[ArmName, bool] | None:
    arm, release, status, flags, attempts, method, forced = facts
    status = status or 0
    if method != "POST" or forced or arm not in ("stable", "canary"):
        return None
    if any(flag in SAYS_NOTHING for flag in (flags or "").split(",")):
        return None
    if release and releases.get(release) != arm:
        return (arm, True) if release in releases and (attempts or 0) > 1 else None
    failed = status == 0 or status >= 500 or (status == 429 and bool(release))
    return None if 400 <= status < 500 and not failed else (arm, failed)


def count(
    lines: Iterable[Mapping[str, Any]], releases: Mapping[str, ArmName], tallies: Mapping[ArmName, Tally]
) -> None:
    """Add lines of the access log to the `tallies`, by arm. Latencies are of successes only: how quickly
    something fails makes it no better."""
    times_us: dict[tuple, list[float | None]] = {}
    for line in lines:  # most are alike in all but their latency, and this has to keep up with the router
        times_us.setdefault(FACTS(line), []).append(line["us"])
    for facts, times in times_us.items():
        found = _whose(facts, releases)
        if found is None or found[0] not in tallies:
            continue
        arm, failed = found
        tallies[arm].requests += len(times)
        tallies[arm].errors += failed * len(times)
        if not failed:
            tallies[arm].took([us / 1000 for us in times if us is not None])


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
