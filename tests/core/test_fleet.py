"""How many replicas hold a rate, on a queue whose answers are known, and on the simulated batcher."""

import numpy as np
import pytest

from bentos.manifest import Plan
from pipelines.core.capacity.fleet import REQUESTS, FleetPlan, plan_fleet
from pipelines.core.capacity.profile import Profile
from pipelines.core.capacity.proposal import Demand
from pipelines.core.capacity.simulation import Run, simulate
from pipelines.core.errors import SettingsInvalid
from pipelines.core.latency import Offer, Samples

RUN_MS = 10.4
PLAN = Plan(max_batch_size=8, max_latency_ms=100)
PROFILE = Profile("a" * 64, "a machine", 2, "cpu", {1: ((1, 0, RUN_MS), (8, 0, 8 * RUN_MS))}, {1: 1.0})
DEMAND = Demand(peak_rps=200, p99_ms=100, max_error_rate=0.001)


def queue(plan: Plan, profile: Profile, offer: Offer, seed: int, workers: int | None = None) -> Run:
    """One queue a worker, first come first served, one row a run; what would be late is refused."""
    times = offer.times(seed)
    free = np.zeros(workers or plan.workers)
    latency_ms, status = np.zeros(len(times)), np.full(len(times), 200)
    for at, now in enumerate(times):
        ends = max(now, free[at % len(free)]) + RUN_MS / 1000
        if (ends - now) * 1000 > plan.max_latency_ms:
            status[at] = 429
        else:
            free[at % len(free)], latency_ms[at] = ends, (ends - now) * 1000
    answered = int((status == 200).sum())
    busy = answered * RUN_MS / 1000 / len(free) / offer.seconds
    return Run(Samples(times, times, latency_ms, status), np.ones(answered, int), busy)


def planned(demand: Demand = DEMAND, plan: Plan = PLAN, **wishes) -> FleetPlan:
    return plan_fleet(PROFILE, plan, demand, simulate=queue, **wishes)


def holds(replicas: int, demand: Demand = DEMAND, plan: Plan = PLAN) -> bool:
    """By the queue itself, of all replicas: each gets the next request at random."""
    offer = Offer("whole", demand.peak_rps, 100)
    times = offer.times(3)
    whose = np.random.default_rng(3).integers(replicas, size=len(times))
    late = 0
    for replica in range(replicas):
        free = 0.0
        for now in times[whose == replica]:
            ends = max(now, free) + RUN_MS / 1000
            if (ends - now) * 1000 > min(demand.p99_ms, plan.max_latency_ms):
                late += 1
            else:
                free = ends
    return late <= demand.max_error_rate * len(times)


def test_the_fleet_is_the_smallest_that_keeps_the_promise():
    found = planned()
    assert found.normal.keeps(DEMAND)
    left = found.failures[0].left
    assert left is not None and left.replicas == found.normal.replicas - 1 and not left.keeps(DEMAND)


def test_one_replica_stands_for_the_whole_fleet():
    """A queue in front of each replica, all of them run one by one, says the same."""
    replicas = planned().normal.replicas
    assert holds(replicas + 1) and not holds(replicas - 1)


def test_a_fleet_keeps_its_cores_busy_and_has_a_price():
    found = planned(price_per_core_hour=0.04, plan=Plan(max_latency_ms=100, workers=2)).normal
    assert found.cores == 2 * found.replicas
    assert found.busy == pytest.approx(200 * RUN_MS / 1000 / found.cores, rel=0.03)
    assert found.cost_per_hour == pytest.approx(0.04 * found.cores)
    assert found.cost_per_million == pytest.approx(0.04 * found.cores / (found.goodput_rps * 3600) * 1e6)
    assert planned().normal.cost_per_hour is None and planned().normal.cost_per_million is None


def test_a_larger_fleet_keeps_the_promise_when_a_replica_or_a_region_fails():
    found = planned(regions=3)
    replicas = found.normal.replicas
    one, region = found.failures
    assert one.proof.replicas == replicas + 1
    assert region.left is not None and region.left.replicas == replicas - -(-replicas // 3)
    proof = region.proof.replicas
    assert proof - -(-proof // 3) >= replicas > (proof - 1) - -(-(proof - 1) // 3)


def test_who_may_refuse_more_needs_less():
    assert planned(Demand(200, 100, 0.6)).normal.replicas < planned().normal.replicas


def test_what_is_lost_by_a_failure_is_told():
    left = planned(regions=2).failures[1].left
    assert left is not None
    assert left.refused_share > 0.1
    assert left.goodput_rps < 0.9 * DEMAND.peak_rps
    assert left.stage.p99_ms <= PLAN.max_latency_ms


def test_nothing_is_left_of_a_single_replica():
    one, region = planned(Demand(5, 100, 0.001), regions=2).failures
    assert one.left is None and region.left is None
    assert one.proof.replicas == region.proof.replicas == 2


def test_huge_fleets_take_no_longer():
    offered = []

    def counted(plan, profile, offer, seed, workers=None) -> Run:
        offered.append(offer)
        return queue(plan, profile, offer, seed, workers)

    found = plan_fleet(PROFILE, PLAN, Demand(1e6, 100, 0.001), simulate=counted)
    hundredth = planned(Demand(1e4, 100, 0.001)).normal.replicas
    assert found.normal.replicas == pytest.approx(100 * hundredth, rel=0.01)
    assert len(offered) < 20
    assert all(offer.rate_rps * offer.seconds == pytest.approx(REQUESTS) for offer in offered)


def test_a_promise_that_no_fleet_can_keep_is_a_sentence():
    with pytest.raises(SettingsInvalid) as refused:
        planned(Demand(200, 5, 0.001), Plan(max_latency_ms=5))
    assert str(refused.value) == (
        "--p99 is 5; a request takes 10.4 ms (p99) where nothing else is to be done, which no number of "
        "replicas changes: promise 11 ms or more, or release a faster rung, more threads or shorter inputs."
    )


def test_a_deadline_that_no_fleet_can_keep_is_a_sentence():
    with pytest.raises(SettingsInvalid, match=r"max_latency_ms is 5; even an idle replica then refuses 100"):
        planned(plan=Plan(max_latency_ms=5))


def test_the_batcher_itself_carries_more_in_batches():
    """A run of 8 rows that costs as little as one: the simulated service needs far fewer replicas than the
    queue that takes one row at a time."""
    costs = {1: ((1, 0, RUN_MS), (8, 0, RUN_MS))}
    profile = Profile("a" * 64, "a machine", 2, "cpu", costs, {1: 1.0})
    found = plan_fleet(profile, PLAN, DEMAND, simulate=simulate).normal
    assert found.keeps(DEMAND)
    assert found.replicas < planned().normal.replicas
    assert found.mean_batch > 1
