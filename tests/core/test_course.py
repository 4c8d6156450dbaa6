"""The course of a load test, on simulated services: the same scheduler, no server and no clock."""

from dataclasses import replace

import numpy as np
import pytest

from bentos.manifest import Plan, Slo
from pipelines.core.capacity.course import ATTEMPTS, MOST_ROUNDS, SOAK_PARTS, Runner, run_course
from pipelines.core.capacity.gate import judge_slo
from pipelines.core.capacity.profile import Profile
from pipelines.core.capacity.proof import Load, Trial
from pipelines.core.capacity.readings import Reading, Usage
from pipelines.core.capacity.simulation import simulate
from pipelines.core.latency import Offer, Samples, percentile, summarise

PLAN = Plan(max_batch_size=8, max_latency_ms=10_000)
PROFILE = Profile("0" * 64, "a machine", 1, "cpu", {1: ((1, 0, 4.0), (8, 0, 18.0))}, {1: 1.0}, request_us=50)
CAPACITY_RPS = 8 / 0.018
IDLE = Reading(Usage(0.0, 0, 0), "")


def service(plan: Plan = PLAN, profile: Profile = PROFILE, most_rps: float = 1e9, first: int = 0):
    """What sends to a simulated service, up to a rate beyond which the generator lags by a second."""

    def send(offer: Offer, seed: int):
        samples = simulate(plan, profile, offer, first + seed).samples
        if offer.mean_rps > most_rps:
            late = samples.intended_s + 1.0
            samples = Samples(samples.intended_s, late, samples.latency_ms + 1000, samples.status)
        return summarise(offer, len(samples.status), samples), samples

    return send


def load_of(runner: Runner, promise: Slo) -> Load:
    trial = Trial("1", "v1", "fp32", 1, tuple(runner.steps), runner.knee_rps, runner.knee_reached)
    limits = (promise.p99_ms, promise.max_error_rate, promise.expected_peak_rps)
    return Load(*limits, PLAN.max_latency_ms, None, runner.offered_seconds, 2.0, trial)


def test_verdicts_near_the_limit_are_right_in_fifty_of_fifty_runs():
    offer = Offer("2x peak", 0.7 * CAPACITY_RPS, 10)
    truth = simulate(PLAN, PROFILE, replace(offer, seconds=600), seed=0).samples
    true_p99_ms = percentile(truth.latency_ms, 99)
    outcomes = []
    for run in range(50):
        keeps = bool(run % 2)
        promise = Slo(true_p99_ms * (1.15 if keeps else 1 / 1.15), 0.001, offer.rate_rps / 2)
        runner = Runner(service(first=100 * (run + 1)), lambda: IDLE)
        runner.peak(offer, promise, MOST_ROUNDS)
        outcomes.append(judge_slo(load_of(runner, promise), "tag").passed == keeps)
    assert sum(outcomes) == 50


def test_a_stage_that_is_clear_is_not_continued():
    runner = Runner(service(), lambda: IDLE)
    runner.peak(Offer("peak", 100, 10), Slo(1000, 0.001, 100), MOST_ROUNDS)
    assert runner.offered_seconds == 10 and runner.steps[0].stage.seconds == 10


def test_a_stage_with_too_few_requests_is_continued_and_kept_as_one():
    runner = Runner(service(), lambda: IDLE)
    runner.peak(Offer("peak", 10, 2), Slo(1000, 0.001, 10), MOST_ROUNDS)
    stage, samples = runner.steps[0].stage, runner.samples[0]
    assert runner.offered_seconds == stage.seconds == MOST_ROUNDS * 2
    assert stage.requests == len(samples.status) == stage.planned and np.all(np.diff(samples.intended_s) >= 0)


def test_the_whole_course_finds_the_knee_and_goes_beyond():
    runner, promise = Runner(service(replace(PLAN, max_latency_ms=100)), lambda: IDLE), Slo(100, 0.01, 50)
    run_course({"candidate": runner}, promise, load_seconds=10, soak_seconds=10)
    kinds = [step.kind for step in runner.steps]
    assert kinds[:3] == ["peak"] * 3 and kinds[-SOAK_PARTS:] == ["soak"] * SOAK_PARTS
    assert runner.knee_reached and 0.7 * CAPACITY_RPS < runner.knee_rps < 1.1 * CAPACITY_RPS
    overload = next(step.stage for step in runner.steps if step.kind == "overload")
    assert overload.rate_rps == 2 * runner.knee_rps and overload.refused > 0.3 * overload.requests
    assert all(step.stage.rate_rps == runner.knee_rps / 2 for step in runner.steps[-SOAK_PARTS:])
    assert load_of(runner, promise).candidate.of("soak")[0].histogram


def test_a_knee_beyond_the_generator_is_said_to_be_there():
    runner, promise = Runner(service(most_rps=250), lambda: IDLE), Slo(100, 0.01, 50)
    run_course({"candidate": runner}, promise, load_seconds=10, soak_seconds=10)
    assert not runner.knee_reached and runner.knee_rps == 100
    assert not [step for step in runner.steps if step.kind == "overload"]


def test_a_stage_in_which_the_generator_fell_behind_is_offered_again():
    offered = []

    def send(offer: Offer, seed: int):
        offered.append(offer)
        return service(most_rps=1e9 if len(offered) == ATTEMPTS else 0)(offer, seed)

    runner = Runner(send, lambda: IDLE)
    runner.peak(Offer("peak", 100, 10), Slo(100, 0.01, 50))
    assert len(offered) == ATTEMPTS and runner.steps[0].stage.lag_p99_ms == 0


def test_two_releases_take_turns():
    turns = []

    def sender(name: str):
        def send(offer: Offer, seed: int):
            turns.append((name, offer.name))
            return service(most_rps=250)(offer, seed)

        return send

    runners = {name: Runner(sender(name), lambda: IDLE) for name in ("candidate", "production")}
    run_course(runners, Slo(100, 0.01, 50), load_seconds=10, soak_seconds=5)
    measured = [turn for turn in turns if turn[1] in ("½x peak", "peak", "2x peak")]
    assert [name for name, _ in measured] == ["candidate", "production"] * 3
    assert {name for name, stage in turns if stage.startswith("soak")} == {"candidate"}


@pytest.mark.parametrize("dies_at", ["2x peak", "300/s"])
def test_a_service_that_dies_is_offered_nothing_more(dies_at):
    offered = []

    def send(offer: Offer, seed: int):
        offered.append(offer.name)
        stage, samples = service()(offer, seed)
        if offer.name != dies_at:
            return stage, samples
        half = Samples(*(values[: len(values) // 2] for values in vars(samples).values()))
        return summarise(offer, stage.planned, half), half

    runner = Runner(send, lambda: None if dies_at in offered else IDLE)
    run_course({"candidate": runner}, Slo(100, 0.01, 50), load_seconds=10, soak_seconds=5)
    assert set(offered) >= {dies_at} and runner.steps[-1].stage.name == dies_at
    assert runner.is_gone and runner.steps[-1].stage.requests < runner.steps[-1].stage.planned
