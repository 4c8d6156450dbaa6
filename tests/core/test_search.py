"""The plan for a demand: on a plain queue whose answers can be reckoned, and on the simulated service."""

import re
from dataclasses import replace

import numpy as np
import pytest

from bentos.batching.costs import Costs
from bentos.manifest import Plan
from pipelines.core.capacity.profile import Profile
from pipelines.core.capacity.search import Demand, Proposal, propose
from pipelines.core.capacity.simulation import Run
from pipelines.core.errors import SettingsInvalid
from pipelines.core.latency import Offer, Samples

FIXED_MS, ROW_MS = 2.0, 1.0
SIZES = (1, 2, 4, 8, 16, 32, 64)


def costs(times: float = 1.0):
    return tuple((rows, 0, (FIXED_MS + ROW_MS * rows) * times) for rows in SIZES)


PROFILE = Profile(
    "a" * 64, "a machine", 4, "cpu", {1: costs(), 2: costs(0.6), 4: costs(0.4)}, {1: 1.2, 2: 1.1, 4: 1.0},
    request_us=50,
)  # fmt: skip
GPU = replace(PROFILE, device="cuda", costs={1: costs(0.1)}, crowding={1: 1.0, 2: 1.2, 4: 3.0})
DEMAND = Demand(peak_rps=100, p99_ms=50, max_error_rate=0.001)


def queue(plan: Plan, profile: Profile, offer: Offer, seed: int) -> Run:
    """One queue a session, which takes all that waits, up to a batch; who would be late is refused."""
    times, sessions = offer.times(seed), plan.workers * plan.replicas
    model = Costs(profile.costs[plan.threads])
    whose = np.random.default_rng(seed).integers(sessions, size=len(times))
    latency_ms, status, batches, busy = np.zeros(len(times)), np.full(len(times), 200), [], 0.0
    for session in range(sessions):
        mine, free, at = np.flatnonzero(whose == session), 0.0, 0
        arrivals = times[mine]
        while at < len(mine):
            start = max(free, arrivals[at])
            rows = min(int(np.searchsorted(arrivals, start, side="right")) - at, plan.max_batch_size)
            padded = next((size for size in plan.padded_batch_sizes if size >= rows), rows)
            seconds = model.seconds(padded) + profile.request_us / 1e6
            group, took_ms = mine[at : at + rows], (start + seconds - arrivals[at : at + rows]) * 1000
            late, at = took_ms > plan.max_latency_ms, at + rows
            latency_ms[group], status[group] = np.where(late, 0.1, took_ms), np.where(late, 429, 200)
            if not late.all():
                free, busy = start + seconds, busy + seconds
                batches.append(int((~late).sum()))
    samples = Samples(times, times, latency_ms, status)
    return Run(samples, np.array(batches, int), busy / sessions / offer.seconds)


def proposed(
    demand: Demand = DEMAND, plan: Plan | None = None, fixed=(), profile: Profile = PROFILE
) -> Proposal:
    plan = plan or Plan(device=profile.device)
    return propose(plan, frozenset(fixed), profile, demand, simulate=queue)


def cores(proposal: Proposal) -> int:
    return proposal.plan.workers * proposal.plan.threads


def said(sentences, *words: str) -> str:
    """The sentence that has all these words."""
    (found,) = (each for each in sentences if all(word in each for word in words))
    return found


def test_one_core_is_enough_for_little():
    found = proposed()
    assert found.met and not found.advice
    assert (found.plan.workers, found.plan.threads, found.plan.replicas) == (1, 1, 1)
    assert found.plan.max_latency_ms == DEMAND.p99_ms
    assert found.tried[-1].meets and found.tried[-1].cores == 1
    assert found.tried[-1].rate_rps == pytest.approx(2 * 100, rel=0.1)


def test_more_takes_more_cores_and_never_fewer():
    needed = [
        cores(proposed(replace(DEMAND, peak_rps=peak))) for peak in (50, 200, 400, 600, 800, 1200, 1500)
    ]
    assert needed == sorted(needed) and needed[0] == 1 and needed[-1] > 2


def test_a_promise_that_one_thread_cannot_keep_takes_two():
    found = proposed(Demand(2, 3.5, 0.01), profile=replace(PROFILE, costs={1: costs(), 2: costs(0.5)}))
    assert found.met and (found.plan.workers, found.plan.threads) == (1, 2)
    assert "2x as fast as 1 thread" in said(found.reasons, "threads make")


def test_among_equal_cores_the_fastest_wins():
    found = proposed(replace(DEMAND, peak_rps=600))
    rivals = {
        (tried.workers, tried.threads): tried.p99_ms
        for tried in found.tried[:-1]
        if tried.cores == cores(found)
    }
    assert len(rivals) > 1
    assert min(rivals.values()) == rivals[found.plan.workers, found.plan.threads]


def test_batches_are_as_large_as_it_is_worth():
    found = proposed(Demand(100, 1000, 0.001))
    assert found.plan.max_batch_size == 32
    assert "64 rows would save only 3%" in said(found.reasons, "batches of up to 32 take 34 ms")


def test_batches_take_no_longer_than_was_promised():
    found = proposed(replace(DEMAND, p99_ms=30))
    assert found.plan.max_batch_size == 16
    assert "32 rows would take 34, of 30 that were promised" in said(
        found.reasons, "batches of up to 16 take 18 ms"
    )


def test_what_waits_could_be_answered_in_time():
    assert proposed(replace(DEMAND, p99_ms=30)).plan.max_queue_rows == 32
    assert proposed(plan=Plan(max_queue_rows=5), fixed=["max_queue_rows"]).plan.max_queue_rows == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", 2), ("threads", 2), ("replicas", 2), ("max_batch_size", 4), ("max_queue_rows", 7),
        ("max_latency_ms", 40),
    ],
)  # fmt: skip
def test_what_is_fixed_stays(name, value):
    found = proposed(plan=replace(Plan(), **{name: value}), fixed=[name])
    assert found.met and getattr(found.plan, name) == value
    assert f"{name} {value}" in said(found.reasons, "set by hand")


def test_what_the_search_knows_nothing_of_stays():
    assert proposed(plan=Plan(cache_seconds=3, lengths=(8, 16))).plan.lengths == (8, 16)
    assert proposed(plan=Plan(cache_seconds=3)).plan.cache_seconds == 3


def test_more_cores_than_there_are_must_be_set_by_hand():
    found = proposed(replace(DEMAND, peak_rps=3000), plan=Plan(workers=6), fixed=["workers"])
    assert found.plan.workers == 6


def test_the_plans_costs_are_those_of_its_threads_and_slower_where_it_fills_the_cores():
    light = proposed(plan=Plan(threads=2), fixed=["threads"])
    shipped = [cost for cost in PROFILE.costs[2] if cost[0] <= light.plan.max_batch_size]
    assert np.array(light.plan.costs) == pytest.approx(np.array(shipped))
    full = proposed(plan=Plan(workers=4, threads=1), fixed=["workers", "threads"])
    assert full.plan.costs[0] == (1, 0, pytest.approx(1.2 * PROFILE.costs[1][0][2]))


def test_reasons_say_what_was_found_and_what_would_be_too_little():
    found = proposed(replace(DEMAND, peak_rps=600))
    promise = said(found.reasons, "should hold 1200/s, twice the expected peak")
    assert f"p99 {found.tried[-1].p99_ms:.3g} ms" in promise and "1 worker with 2 threads" in promise
    assert "1 worker with 1 thread" in said(found.reasons, "would not do: at most about")


def test_too_much_is_met_as_far_as_may_be_and_advice_is_right():
    found = proposed(replace(DEMAND, peak_rps=4000))
    assert not found.met and cores(found) == 4
    machines = int(re.match(r"(\d+) machines", said(found.advice, "machines like this one"))[1])
    assert proposed(replace(DEMAND, peak_rps=4000 / machines)).met
    assert not proposed(replace(DEMAND, peak_rps=4000 / (machines - 1) * 1.1)).met
    peak = float(re.search(r"([\d.]+)/s can be promised", said(found.advice, "a lower peak"))[1])
    assert proposed(replace(DEMAND, peak_rps=peak)).met
    times = float(re.search(r"rung ([\d.]+)x", said(found.advice, "a rung"))[1])
    faster = {threads: costs(of / times) for threads, of in ((1, 1), (2, 0.6), (4, 0.4))}
    assert proposed(replace(DEMAND, peak_rps=4000), profile=replace(PROFILE, costs=faster)).met


def test_too_short_a_promise_is_told_the_shortest_that_can_be_kept():
    found = proposed(Demand(20, 1.0, 0.01))
    assert not found.met
    promise = float(
        re.search(r"p99 of ([\d.]+) ms could be promised", said(found.advice, "could be promised"))[1]
    )
    assert promise >= 1.2, "a run of one row with four threads"
    assert found.plan.max_latency_ms == promise, "better late than never"
    assert proposed(Demand(20, promise, 0.01)).met
    assert not any("machines" in hint for hint in found.advice), "no number of them makes a run shorter"


def test_a_deadline_that_was_set_too_short_stays_and_is_told():
    found = proposed(plan=Plan(max_latency_ms=1), fixed=["max_latency_ms"])
    assert not found.met and found.plan.max_latency_ms == 1
    assert said(found.advice, "max_latency_ms 50 in place of 1: 1 worker with 1 thread")


def test_a_batch_that_was_set_too_small_is_told_what_would_do():
    found = proposed(replace(DEMAND, peak_rps=1000), plan=Plan(max_batch_size=1), fixed=["max_batch_size"])
    assert not found.met and found.plan.max_batch_size == 1
    assert re.match(r"max_batch_size \d+ in place of 1: ", said(found.advice, "in place of"))


def test_a_batch_that_was_set_too_large_is_told_what_would_do():
    """Padded to its only size, it takes 66 ms whatever is in it."""
    plan = Plan(max_batch_size=64, padded_batch_sizes=(64,), device="cuda")
    slow = replace(GPU, costs={1: costs()})
    found = proposed(plan=plan, fixed=["max_batch_size"], profile=slow)
    assert not found.met and found.plan.padded_batch_sizes == (64,)
    assert "max_batch_size 32 in place of 64" in said(found.advice, "in place of")


def test_a_gpu_gets_padded_batches_and_one_session_if_that_will_do():
    found = proposed(profile=GPU)
    assert found.met and (found.plan.workers, found.plan.replicas, found.plan.threads) == (1, 1, 1)
    assert found.plan.padded_batch_sizes == tuple(s for s in SIZES if s <= found.plan.max_batch_size)
    assert found.plan.padded_batch_sizes[-1] == found.plan.max_batch_size


def test_a_gpu_is_shared_by_sessions_before_there_are_more_processes():
    found = proposed(replace(DEMAND, peak_rps=4800), profile=GPU)
    assert found.met and (found.plan.workers, found.plan.replicas) == (1, 2)
    assert found.plan.costs[0][2] == pytest.approx(1.2 * 0.3)


def test_the_same_seed_proposes_the_same():
    assert proposed() == proposed()


def test_noise_in_what_was_measured_makes_no_other_plan():
    rng = np.random.default_rng(0)
    noisy = {
        threads: tuple((rows, length, ms * rng.uniform(0.97, 1.03)) for rows, length, ms in table)
        for threads, table in PROFILE.costs.items()
    }
    again = proposed(profile=replace(PROFILE, costs=noisy)).plan
    assert replace(again, costs=()) == replace(proposed().plan, costs=())


def test_a_proposal_is_kept(tmp_path):
    for found in (proposed(), proposed(replace(DEMAND, peak_rps=4000), profile=GPU)):
        found.save(tmp_path)
        assert Proposal.load(tmp_path) == found


def test_threads_that_were_not_measured_cannot_be_planned():
    with pytest.raises(SettingsInvalid, match="threads is 3; what the model costs was measured with 1, 2, 4"):
        proposed(plan=Plan(threads=3), fixed=["threads"])


def test_the_service_itself_is_simulated():
    light, heavy = (propose(Plan(), frozenset(), PROFILE, Demand(peak, 100, 0.001)) for peak in (50, 1000))
    assert light.met and cores(light) == 1
    assert heavy.met and cores(heavy) > 1 and heavy.tried[-1].mean_batch > 1
