"""The simulator: against queueing theory, against the real batcher, and what must hold whatever the load."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from bentos.batching.batcher import Batcher
from bentos.contract import Contract, Field
from bentos.manifest import Plan
from bentos.work import Job
from pipelines.core.capacity.calibrating import calibrated
from pipelines.core.capacity.profile import Profile
from pipelines.core.capacity.simulation import HAND_OVER_SECONDS, replay, simulate
from pipelines.core.latency import Offer, Samples, percentile
from tests.bentos.virtual import Doubling, Recorder, VirtualWorker, passing

RUN_MS = 5.0
FIXED = ((1, 0, RUN_MS), (32, 0, RUN_MS))
AFFINE = ((1, 0, 2.0), (2, 0, 3.0), (32, 0, 33.0))
ALONE = Plan(max_batch_size=1, max_latency_ms=60_000, costs=FIXED)
BATCHED = Plan(max_batch_size=32, max_latency_ms=200, costs=AFFINE)
HAND_OVER_MS = HAND_OVER_SECONDS * 1000


def profile(costs=FIXED, **more) -> Profile:
    return Profile("model", "machine", cores=2, device="cpu", costs={1: costs}, crowding={1: 1.0}, **more)


def offer(rate_rps: float, seconds: float = 20) -> Offer:
    return Offer("stage", rate_rps, seconds)


def p99(run) -> float:
    return percentile(run.samples.latency_ms[run.samples.ok], 99)


def throughput(run) -> float:
    samples = run.samples
    return samples.ok.sum() / (samples.intended_s + samples.latency_ms / 1000).max()


# Queueing theory: Kleinrock, "Queueing Systems", volume 1, 1975, sections 5.6 and 5.7.


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("variation", [0, 1], ids=["M/D/1", "M/M/1"])
def test_the_mean_wait_is_that_of_pollaczek_and_khinchine(load, variation):
    shares = (np.arange(2000) + 0.5) / 2000
    exponential = tuple((-np.log(1 - shares)).tolist()) if variation else ()
    run = simulate(ALONE, profile(spread=exponential), offer(load / RUN_MS * 1000, 100), seed=3)
    wait_ms = load * RUN_MS / (2 * (1 - load)) * (1 + variation)
    mean_ms = run.samples.latency_ms.mean() - RUN_MS - HAND_OVER_MS
    assert mean_ms == pytest.approx(wait_ms, rel=0.12)
    assert run.busy == pytest.approx(load, rel=0.05)


def test_alone_a_request_takes_what_its_parts_take():
    run = simulate(
        ALONE, profile(request_us=600, extra_ms=(2.0, 2.0)), Offer("stage", 1, 20, None, "constant"), 1
    )
    assert run.samples.latency_ms == pytest.approx(RUN_MS + 0.6 + HAND_OVER_MS + 2)


# The real batcher.


def by_the_batcher(plan: Plan, times: np.ndarray) -> tuple[list[int], list[int]]:
    contract = Contract((Field("x", "float32"),), (Field("y", "float32"),))
    recorder, jobs, one = Recorder(), [], np.ones(1, np.float32)

    @passing
    async def served() -> None:
        loop = asyncio.get_running_loop()
        engines = [Doubling(RUN_MS / 1000) for _ in range(plan.replicas)]
        batcher = Batcher(engines, contract, plan, recorder, clock=loop.time, worker=VirtualWorker)  # pyright: ignore

        def submit() -> None:
            job = Job(
                lambda job: None, 1, loop.time() + plan.max_latency_ms / 1000, loop.time(), feeds={"x": one}
            )
            jobs.append(job)
            batcher.submit(job)

        for time in times.tolist():
            loop.call_at(time, submit)
        await asyncio.sleep(times[-1] + 1)

    served()
    return recorder.batches, [200 if job.refusal is None else job.refusal.status for job in jobs]


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("load", [0.05, 0.5, 0.9, 1.5])
def test_it_decides_as_the_batcher_does(load, replicas, monkeypatch):
    monkeypatch.setattr("pipelines.core.capacity.simulation.HAND_OVER_SECONDS", 0.0)
    plan = Plan(max_batch_size=8, max_latency_ms=60, costs=FIXED, replicas=replicas)
    times = offer(load * replicas * 8 / RUN_MS * 1000, 2).times(5)
    batches, statuses = by_the_batcher(plan, times)
    run = replay(plan, profile(), times, seed=1)
    assert run.samples.status.tolist() == statuses
    assert sorted(run.batch_rows) == sorted(batches)


# Whatever the load.


@pytest.mark.parametrize("rate", [50, 500, 2000])
@pytest.mark.parametrize("queue", [1, 40, None])
def test_every_request_has_one_outcome(rate, queue):
    plan, stage = replace(BATCHED, max_queue_rows=queue), offer(rate, 5)
    samples = simulate(plan, profile(AFFINE, request_us=100), stage, 1).samples
    assert len(samples.status) == len(stage.times(1))
    assert set(samples.status) <= {200, 429, 504}
    assert (samples.latency_ms > 0).all()


def test_the_rows_of_all_batches_are_the_answered_requests():
    run = simulate(BATCHED, profile(AFFINE), offer(2000, 5), 1)
    assert run.batch_rows.sum() == run.samples.ok.sum()


def test_overload_is_refused_at_once_and_what_is_let_in_is_in_time():
    run = simulate(BATCHED, profile(AFFINE), offer(3000, 10), 1)
    samples = run.samples
    assert samples.refused.mean() > 0.5
    assert percentile(samples.latency_ms[samples.refused], 99) < 1
    assert samples.latency_ms[samples.ok].max() <= BATCHED.max_latency_ms + AFFINE[-1][2]
    assert throughput(run) == pytest.approx(32 / 33 * 1000, rel=0.05)


def test_the_same_for_a_seed_and_other_for_another():
    one, same, other = (simulate(BATCHED, profile(AFFINE), offer(500), seed).samples for seed in (1, 1, 2))
    assert one.latency_ms.tolist() == same.latency_ms.tolist()
    assert one.latency_ms.tolist() != other.latency_ms.tolist()


@pytest.mark.parametrize("rate", [100, 600, 900])
def test_more_replicas_or_workers_are_not_worse(rate):
    found = {
        (replicas, workers): p99(
            simulate(
                replace(BATCHED, replicas=replicas),
                replace(profile(AFFINE), cores=8),
                offer(rate),
                1,
                workers,
            )
        )
        for replicas, workers in ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4))
    }
    assert found[1, 1] >= found[2, 1] >= found[4, 1]
    assert found[1, 1] >= found[1, 2] >= found[1, 4]


def test_batches_grow_with_the_load():
    means = [
        simulate(BATCHED, profile(AFFINE), offer(rate), 1).batch_rows.mean() for rate in (50, 500, 800, 3000)
    ]
    assert means == sorted(means)
    assert means[0] < 1.1
    assert means[-1] > 30


# The machine.


def test_crowded_cores_are_slower():
    plan = replace(BATCHED, replicas=2)
    rates = [
        throughput(simulate(plan, replace(profile(AFFINE), crowding={1: times}), offer(4000, 5), 1))
        for times in (1.0, 1.5)
    ]
    assert rates[0] == pytest.approx(1.5 * rates[1], rel=0.05)


def test_on_a_single_core_the_event_loop_takes_time_from_the_model():
    found = [
        throughput(
            simulate(BATCHED, replace(profile(AFFINE, request_us=400), cores=cores), offer(950, 10), 1)
        )
        for cores in (1, 2)
    ]
    assert found[0] < 0.8 * found[1]


def test_short_runs_occupy_the_event_loop():
    costs = ((1, 0, 0.1), (32, 0, 3.2))
    plan = Plan(max_batch_size=1, max_latency_ms=50, costs=costs)
    run = simulate(plan, profile(costs, request_us=900), offer(900, 20), 1)
    assert run.samples.latency_ms.mean() > 1.0 / (2 * 0.1) * 0.7
    assert run.busy == pytest.approx(0.09, rel=0.1)


def test_an_event_loop_that_has_too_much_to_read_still_answers():
    costs = ((1, 0, 0.005), (32, 0, 0.02))
    plan = Plan(max_batch_size=32, max_latency_ms=1000, costs=costs)
    run = simulate(plan, profile(costs, request_us=100), offer(20_000, 1), 1)
    assert throughput(run) == pytest.approx(10_000, rel=0.1)


def test_longer_rows_take_longer():
    costs = ((1, 10, 2.0), (1, 100, 20.0))
    plan = Plan(max_batch_size=1, costs=costs, lengths=(10, 100))
    samples = simulate(plan, profile(costs, lengths=(10, 10, 10, 100)), offer(1, 400), 1).samples
    assert (samples.latency_ms > 15).mean() == pytest.approx(0.25, abs=0.06)


# What a light stage teaches.


def test_what_lies_around_the_service_is_found_again():
    around = tuple(np.linspace(0.5, 6.0, 401).tolist())
    truth = profile(AFFINE, request_us=300, extra_ms=around)
    light = simulate(BATCHED, truth, offer(200, 60), 7).samples
    found = calibrated(profile(AFFINE, request_us=300), BATCHED, light)
    loaded = [simulate(BATCHED, each, offer(700, 30), 9) for each in (truth, found)]
    assert p99(loaded[1]) == pytest.approx(p99(loaded[0]), rel=0.1)


def test_cpu_time_beyond_the_profile_is_put_down_to_requests_and_model_in_proportion():
    known = profile(request_us=1000)
    light = simulate(ALONE, known, Offer("stage", 10, 10, None, "constant"), 1).samples
    assert calibrated(known, ALONE, light, 2 * (5000 + 1000)).request_us == pytest.approx(2000, rel=0.02)


def test_without_the_cpu_time_the_known_cost_of_a_request_stays():
    sent = np.array([0.0, 1.0])
    light = Samples(sent, sent, np.array([6.0, 6.0]), np.array([200, 200]))
    found = calibrated(profile(request_us=250), ALONE, light)
    assert found.request_us == 250
    assert found.extra_ms == pytest.approx([6 - RUN_MS - 0.25 - HAND_OVER_MS] * 401, abs=0.01)
