"""How many replicas carry a rate, and what is left of the promise when some are gone: without a server.

Where requests go to replicas at random, each sees a Poisson stream of its own, thinned to its share of the
rate (the colouring theorem: Kingman, "Poisson Processes", 1993, section 5.1), and none knows of the others.
So one replica at its share stands for the whole fleet, however large. A router that looks for the least busy
replica does better than this.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from typing import Protocol

import numpy as np

from bentos.manifest import Plan
from pipelines.core.capacity.foresight import cores_of
from pipelines.core.capacity.outlook import cost_per_million
from pipelines.core.capacity.profile import Profile
from pipelines.core.capacity.proposal import Demand
from pipelines.core.capacity.simulation import Run, simulate
from pipelines.core.errors import SettingsInvalid
from pipelines.core.latency import Offer, Stage, percentile, summarise

REQUESTS = 20_000
"""Of each simulated run: 200 of them lie above the p99."""
IDLE_SHARE = 0.001
"""Of what a replica can do: so little that no request meets another, however the p99 looks."""
EXACT_REPLICAS = 200
"""Larger fleets are counted to one part in so many; a profile says no more."""
NO_DEADLINE_MS = 3_600_000.0
SEED = 7


class Simulate(Protocol):
    def __call__(self, plan: Plan, profile: Profile, offer: Offer, seed: int, workers: int | None, /) -> Run:
        """The service under an offer, foretold."""
        ...


@dataclass(frozen=True)
class Fleet:
    """Replicas of one plan that share a rate evenly.

    cores              of all of them
    stage              the figures of one replica at its share; all others are like it
    busy, mean_batch   the share of the time that its sessions run, and the rows of their runs
    goodput_rps        answers within the promised p99, of the whole fleet
    cost_per_hour, cost_per_million   of the cores, and of answers in time while the rate lasts; None without
                       a price
    """

    replicas: int
    cores: int
    stage: Stage
    busy: float
    mean_batch: float
    goodput_rps: float
    cost_per_hour: float | None = None
    cost_per_million: float | None = None

    @property
    def refused_share(self) -> float:
        return self.stage.refused / self.stage.planned

    def keeps(self, demand: Demand) -> bool:
        """Whether its p99 and its errors are as demanded."""
        return self.stage.p99_ms <= demand.p99_ms and self.stage.error_rate <= demand.max_error_rate


@dataclass(frozen=True)
class Failure:
    """Something breaks while the rate is at its peak. `left` is what carries the rate then, None where
    nothing is left; `proof` is the fleet that keeps the promise even then, while it is whole."""

    what: str
    left: Fleet | None
    proof: Fleet


@dataclass(frozen=True)
class FleetPlan:
    """The smallest fleet that keeps the promise, and what failures do to it."""

    demand: Demand
    normal: Fleet
    failures: tuple[Failure, ...]


def plan_fleet(
    profile: Profile,
    plan: Plan,
    demand: Demand,
    price_per_core_hour: float | None = None,
    regions: int = 1,
    simulate: Simulate = simulate,
) -> FleetPlan:
    """The smallest fleet for the peak, by simulation. From two regions on, among which replicas are spread
    evenly, one of them fails too. Raises SettingsInvalid where no number of replicas keeps the promise."""

    @cache
    def fleet(replicas: int) -> Fleet:
        run = _one_replica(profile, plan, demand.peak_rps / replicas, simulate)
        return _fleet(run, plan, demand, replicas, price_per_core_hour)

    def failing(what: str, lost: int, proof: int) -> Failure:
        left = normal.replicas - lost
        return Failure(what, fleet(left) if left else None, fleet(proof))

    least, most = _bounds(profile, plan, demand)
    if not fleet(most).keeps(demand):
        patient = replace(plan, max_latency_ms=NO_DEADLINE_MS, max_queue_rows=None)
        _, alone = _one_replica(profile, patient, demand.peak_rps / most, simulate)
        raise _impossible(plan, demand, fleet(most), percentile(alone.samples.latency_ms, 99))
    normal = fleet(_fewest(lambda replicas: fleet(replicas).keeps(demand), least, most))
    failures = [failing("one replica is gone", 1, normal.replicas + 1)]
    if regions > 1:
        lost, proof = ceil(normal.replicas / regions), ceil(normal.replicas * regions / (regions - 1))
        failures.append(failing(f"one of {regions} regions is gone", lost, proof))
    return FleetPlan(demand, normal, tuple(failures))


def _one_replica(profile: Profile, plan: Plan, rate_rps: float, simulate: Simulate) -> tuple[Offer, Run]:
    offer = Offer("peak", rate_rps, REQUESTS / rate_rps)
    return offer, simulate(plan, profile, offer, SEED, plan.workers)


def _fleet(run: tuple[Offer, Run], plan: Plan, demand: Demand, replicas: int, price: float | None) -> Fleet:
    offer, found = run
    samples, cores = found.samples, cores_of(plan) * replicas
    in_time = int((samples.ok & (samples.latency_ms <= demand.p99_ms)).sum())
    goodput_rps = demand.peak_rps * in_time / len(samples.status)
    return Fleet(
        replicas=replicas,
        cores=cores,
        stage=summarise(offer, len(samples.status), samples),
        busy=found.busy,
        mean_batch=float(np.mean(found.batch_rows)) if len(found.batch_rows) else 0.0,
        goodput_rps=goodput_rps,
        cost_per_hour=None if price is None else price * cores,
        cost_per_million=cost_per_million(price, cores, goodput_rps),
    )


def _bounds(profile: Profile, plan: Plan, demand: Demand) -> tuple[int, int]:
    """Fewer replicas cannot answer enough, by the cheapest row that was ever measured; with more of them no
    request meets another."""
    sessions = plan.workers * plan.replicas
    row_ms = min(ms / rows for rows, _, ms in profile.costs[plan.threads]) / sessions
    loads = demand.peak_rps * max(row_ms, profile.request_us / 1000 / plan.workers) / 1000
    return max(1, ceil(loads * (1 - demand.max_error_rate))), max(1, ceil(loads / IDLE_SHARE))


def _fewest(keeps: Callable[[int], bool], least: int, most: int) -> int:
    """The fewest replicas from `least` to `most`, which is enough: by doubling, then by halving."""
    low, high = least - 1, least
    while high < most and not keeps(high):
        low, high = high, min(2 * high, most)
    while high - low > 1 + low // EXACT_REPLICAS:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high


def _impossible(plan: Plan, demand: Demand, idle: Fleet, alone_ms: float) -> SettingsInvalid:
    """Why a replica that has next to nothing to do breaks the promise; a request alone takes `alone_ms`."""
    if alone_ms <= demand.p99_ms and idle.stage.p99_ms <= demand.p99_ms:
        mend = f"even an idle replica then refuses {idle.stage.error_rate:.2%}, so allow later answers"
        return SettingsInvalid("max_latency_ms", plan.max_latency_ms, mend)
    mend = (
        f"a request takes {alone_ms:.3g} ms (p99) where nothing else is to be done, which no number of "
        f"replicas changes: promise {_rounded_up(alone_ms):g} ms or more, or release a faster rung, more "
        "threads or shorter inputs"
    )
    return SettingsInvalid("--p99", demand.p99_ms, mend)


def _rounded_up(value: float) -> float:
    """The next number of two digits that count."""
    step = 10 ** (int(np.floor(np.log10(value))) - 1)
    return float(f"{ceil(value / step) * step:.6g}")
