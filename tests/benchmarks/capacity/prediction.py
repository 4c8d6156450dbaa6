"""What the simulation foretells beside what the service does, on one core.

The profile is measured as the pipeline does it, a light stage teaches it what lies around the model, and then
both get the same requests at the same times, up to twice what the plan can carry.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import numpy as np
import psutil

from bentos.batching.costs import Costs
from bentos.engines.engine import Engine
from bentos.manifest import Plan
from pipelines.core.capacity.batches import Batches
from pipelines.core.capacity.calibrating import calibrated
from pipelines.core.capacity.measuring import measure as measure_profile
from pipelines.core.capacity.profile import Profile
from pipelines.core.capacity.simulation import replay, simulate
from pipelines.core.latency import Offer, Samples, percentile
from tests.benchmarks.capacity.derived import Planned
from tests.benchmarks.harness.load import LoadFailed, open_loop
from tests.benchmarks.harness.machine import SERVER_CORE, facts, on_the_generators_core
from tests.benchmarks.harness.peers import JSON, Net, Served, serving
from tests.benchmarks.harness.report import show
from tests.benchmarks.harness.rounds import Effort, Figures, take_turns
from tests.benchmarks.serving import nets
from tests.benchmarks.serving.peers.ours import PEER

LIGHT = 0.25
"""Of what the plan can carry: half of a peak that is half of it."""
SHARES = (0.3, 0.6, 0.8, 2.0)
LIMITS = {"p99": 0.15, "throughput": 0.05}
"""How far the median of the rounds may be off."""
SEED = 41
MOST_DRIFT, MOST_OTHERS, ATTEMPTS = 0.1, 0.05, 8
"""A stage counts if the machine was as fast after it as before it, but for this share, and others used no
more than this share of a core meanwhile; else it is offered again, so many times."""
PACE_SECONDS = 0.3
WARM_UP_SECONDS, SIMULATED_SECONDS = 2.0, 5.0


@dataclass(frozen=True)
class Case:
    """A net, with its largest batch and deadline in ms."""

    net: Callable[[], Net]
    rows: int
    limit_ms: float


CASES = {
    "heavy": Case(partial(nets.heavy, 8, 400.0), 8, 400.0),
    "minilm": Case(partial(nets.minilm, 400.0, 32), 32, 400.0),
}


def measure(effort: Effort, names: Sequence[str] = tuple(CASES)) -> dict:
    """By net: the figures of each load, and their ratios foretold to measured."""
    turns = {name: partial(_one, CASES[name], effort.seconds) for name in names}
    taken = take_turns(turns, effort.rounds)
    told = taken.told()
    rows = [_row(name, share, told[name]) for name in names if name not in taken.failed for share in SHARES]
    show("foretold ÷ measured", rows or [{"net": "none"}])
    return {"limits": LIMITS, "nets": told}


def _row(name: str, share: float, told: dict) -> dict:
    """Of the table: the medians, and the ratios with their range."""
    row: dict = {"net": name, "load": f"{share:g}x"}
    for figure in ("p50_ms", "p99_ms", "rps"):
        ratios = told[f"{figure}_ratio_{share:g}x"]
        row[figure] = told[f"{figure}_{share:g}x"]["median"]
        row[f"{figure} ratio"] = f"{ratios['median']} ({min(ratios['rounds'])}…{max(ratios['rounds'])})"
    return row


def _one(case: Case, seconds: float) -> Figures:
    """A profile, a fresh server, a light stage, and then what is foretold and measured at each load."""
    net = case.net()
    profile = _profile(net, case)
    plan = Plan(case.rows, case.limit_ms, costs=profile.costs[1], lengths=net.lengths)
    pace, capacity_rps = Pace(net, case.rows, profile), _capacity_rps(plan, profile)
    with serving(Planned("ours", PEER.folder, PEER.kit, plan), net) as served:
        ask = partial(_offered, served, pace, case.limit_ms)
        ask(LIGHT * capacity_rps, WARM_UP_SECONDS)
        light = ask(LIGHT * capacity_rps, seconds)
        known = calibrated(_slower(profile, light.slowdown), plan, light.samples, light.cpu_us)
        figures = {"capacity_rps": capacity_rps, "cpu_us": light.cpu_us, "request_us": known.request_us}
        for share in SHARES:
            found = ask(share * capacity_rps, seconds)
            now, times = _slower(known, found.slowdown / light.slowdown), found.samples.intended_s
            foretold = replay(plan, now, times, SEED).samples
            figures |= _compared(found.samples, foretold, f"{share:g}x")
    return figures


@dataclass(frozen=True)
class Offered:
    """One stage: its samples, how slow the machine was meanwhile, the service's CPU time for a request."""

    samples: Samples
    slowdown: float
    cpu_us: float


class Pace:
    """How slow the machine is at the moment: its neighbours change that by half, for seconds at a time."""

    def __init__(self, net: Net, rows: int, profile: Profile) -> None:
        length = net.lengths[0] if net.lengths else 0
        self._engine = Engine(net.file, net.contract)
        self._feeds = Batches(net.contract, [dict(row) for row in net.rows]).feeds(rows, length)
        self._seconds = Costs(profile.costs[1]).seconds(rows, length)

    def slowdown(self) -> float:
        """How many times as long as in the profile a batch takes on the server's core, which is idle."""
        before, taken = os.sched_getaffinity(0), []
        os.sched_setaffinity(0, {SERVER_CORE})
        until = time.perf_counter() + PACE_SECONDS
        while (began := time.perf_counter()) < until:
            self._engine.run(self._feeds)
            taken.append(time.perf_counter() - began)
        os.sched_setaffinity(0, before)
        return median(taken) / self._seconds


def _slower(profile: Profile, times: float) -> Profile:
    """The profile while the machine is so many times as slow."""
    costs = tuple((rows, length, ms * times) for rows, length, ms in profile.costs[1])
    return replace(profile, costs={1: costs}, request_us=profile.request_us * times)


def _offered(served: Served, pace: Pace, limit_ms: float, rate_rps: float, seconds: float) -> Offered:
    """One stage on a quiet machine. Raises LoadFailed where it was not, in so many attempts."""
    for _ in range(ATTEMPTS):
        before, others, tree = pace.slowdown(), _others(served), served.tree.cpu_seconds()
        began = time.perf_counter()
        samples = open_loop(served.url, served.bodies, JSON, rate_rps, seconds, limit_ms, SEED).samples
        others = (_others(served) - others) / (time.perf_counter() - began)
        cpu_us = (served.tree.cpu_seconds() - tree) * 1e6 / len(samples.status)
        after = pace.slowdown()
        drift = abs(after / before - 1)
        if drift <= MOST_DRIFT and others <= MOST_OTHERS:
            return Offered(samples, (before + after) / 2, cpu_us)
    raise LoadFailed(f"others used {others:.0%} of a core, and the machine's speed changed by {drift:.0%}.")


def _others(served: Served) -> float:
    """CPU seconds of all processes but the service and this one, since they began."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - served.tree.cpu_seconds() - time.process_time()


def _compared(measured: Samples, foretold: Samples, load: str) -> Figures:
    told, truth = _figures(foretold), _figures(measured)
    ratios = {f"{name}_ratio_{load}": told[name] / truth[name] for name in truth}
    return {f"{name}_{load}": value for name, value in truth.items()} | ratios


def _figures(samples: Samples) -> Figures:
    """Of the answered requests."""
    latency = samples.latency_ms[samples.ok]
    seconds = float(np.max(samples.intended_s + samples.latency_ms / 1000))
    return {
        "p50_ms": percentile(latency, 50),
        "p99_ms": percentile(latency, 99),
        "rps": len(latency) / seconds,
    }


def _capacity_rps(plan: Plan, profile: Profile) -> float:
    """What is answered of far too much."""
    row_ms = min(ms / rows for rows, _, ms in plan.costs)
    offer = Offer("too much", 2000 / max(row_ms, profile.request_us / 1000), SIMULATED_SECONDS)
    return _figures(simulate(plan, profile, offer, SEED).samples)["rps"]


def _profile(net: Net, case: Case) -> Profile:
    """On one core, as the server has but one."""
    rows, plan = [dict(row) for row in net.rows], Plan(case.rows, lengths=net.lengths)
    with on_the_generators_core():
        return measure_profile(
            net.file, net.contract, rows, plan, case.limit_ms, time.perf_counter, 1, facts()["cpu"]
        )
