"""The verdicts of a load test, on cases."""

import re
from dataclasses import replace

import pytest

from pipelines.core.capacity.gate import is_close, judge_leak, judge_overload, judge_slo
from pipelines.core.capacity.proof import Load, Service, Step, Trial
from pipelines.core.errors import LoadTestInvalid
from pipelines.core.latency import Stage

GOOD = Stage("2x peak", 100, 10, 1000, 1000, 0, 0, 2.0, 9.0, 8.0, 10.0, 12.0, 0.0, 100.0, 0.5)
OVER = replace(GOOD, name="overload", rate_rps=400, planned=4000, requests=4000, errors=2000, refused=1990,
               p99_ms=55.0, refused_p99_ms=5.0, throughput_rps=190.0)  # fmt: skip
IDLE = Service(100.0, 200.0, 40, {}, {})


def load(*steps: Step, knee_reached: bool = True) -> Load:
    trial = Trial("1", "v1", "fp32", 1, steps, 200.0, knee_reached)
    return Load(50, 0.001, 50, 50, None, 30.0, 2.0, trial)


def peak(**changed) -> Load:
    first = Step("peak", replace(GOOD, name="peak", rate_rps=50), IDLE, "")
    return load(first, Step("peak", replace(GOOD, **changed), IDLE, ""))


def overload(**changed) -> Load:
    return load(Step("overload", replace(OVER, **changed), IDLE, ""))


def soak(grown_mib: float, descriptors: int, requests: int) -> Trial:
    stage = replace(GOOD, name="soak", requests=requests, planned=requests)
    last = replace(IDLE, memory_mib=IDLE.memory_mib + grown_mib, descriptors=IDLE.descriptors + descriptors)
    return load(Step("soak", stage, IDLE, ""), Step("soak", stage, last, "")).candidate


def test_a_kept_promise_passes_with_its_figures():
    verdict = judge_slo(peak(), "tag")
    assert verdict.passed and verdict.subject == "tag"
    assert verdict.why == "p99 9.0 ms at 100/s (2x peak), limit 50 ms; 0 of 2000 requests failed"
    assert verdict.numbers["p99_ms 2x peak"] == 9.0


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"p99_ms": 51.0}, r"p99 is 51\.0 ms at 100/s \(2x peak\), the limit 50 ms"),
        ({"errors": 2}, r"2 of 1000 requests failed at 100/s \(2x peak\) \(0\.20%\), the limit is 0\.10%"),
        ({"requests": 900}, "100 of 1000 requests failed .*; 100 could not be sent"),
    ],
)
def test_a_broken_promise_fails_and_says_what_would_help(changed, why):
    verdict = judge_slo(peak(**changed), "tag", advice=("2 replicas would do",))
    assert verdict.outcome == "fail"
    assert re.search(why, verdict.why)
    assert verdict.why.endswith("; 2 replicas would do")


def test_a_p99_too_close_to_its_limit_is_inconclusive():
    verdict = judge_slo(peak(p99_ms=49.0, p99_low_ms=46.0, p99_high_ms=53.0), "tag")
    assert verdict.outcome == "inconclusive" and "46.0 to 53.0 ms" in verdict.why


def test_figures_of_a_generator_that_fell_behind_are_not_judged():
    with pytest.raises(LoadTestInvalid, match="late"):
        judge_slo(peak(lag_p99_ms=30.0), "tag")


@pytest.mark.parametrize(
    ("changed", "close"),
    [
        ({}, False),
        ({"p99_high_ms": 51.0}, True),
        ({"p99_low_ms": 51.0, "p99_ms": 60.0, "p99_high_ms": 70.0}, False),
        ({"errors": 1}, False),
        ({"errors": 2}, True),
        ({"errors": 20}, False),
    ],
)
def test_what_is_too_close_to_tell(changed, close):
    assert is_close(replace(GOOD, **changed), 50, 0.001) == close


def test_an_overload_that_is_turned_away_passes():
    verdict = judge_overload(overload(), "tag")
    assert verdict.passed and "answered 190/s" in verdict.why and "refused 1,990" in verdict.why


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"p99_ms": 63.0}, "p99 of what was let in is 63.0 ms"),
        ({"refused_p99_ms": 26.0}, "99 % of refusals take 26.0 ms"),
        ({"throughput_rps": 90.0}, "only 90/s are answered"),
        ({"refused": 1700}, "300 of 4000 requests are neither answered nor refused"),
        ({"errors": 4000, "refused": 0}, "4000 of 4000 requests are neither answered nor refused"),
    ],
)
def test_an_overload_that_harms_fails(changed, why):
    verdict = judge_overload(overload(**changed), "tag")
    assert verdict.outcome == "fail" and why in verdict.why


def test_a_service_that_could_not_be_overloaded_passes_and_it_is_said():
    verdict = judge_overload(load(Step("climb", GOOD, IDLE, ""), knee_reached=False), "tag")
    assert verdict.passed and verdict.why == "no more than 100/s could be offered, which did not overload it"


@pytest.mark.parametrize(
    ("grown_mib", "descriptors", "requests", "outcome"),
    [
        (0.1, 0, 10_000, "pass"),
        (7.0, 0, 1_000, "pass"),
        (9.0, 0, 100_000, "pass"),
        (9.0, 0, 10_000, "fail"),
        (0.0, 17, 10_000, "fail"),
        (-5.0, -3, 10_000, "pass"),
    ],
)
def test_what_is_a_leak(grown_mib, descriptors, requests, outcome):
    assert judge_leak(soak(grown_mib, descriptors, requests), "tag").outcome == outcome


def test_a_service_that_is_stuck_keeps_nothing_and_fails():
    stuck = soak(0.0, 0, 1000)
    steps = [replace(step, stage=replace(step.stage, errors=60)) for step in stuck.steps]
    verdict = judge_leak(replace(stuck, steps=tuple(steps)), "tag")
    assert verdict.outcome == "fail" and "answered 1,880 of 2,000 requests well" in verdict.why


def test_a_soak_that_ended_early_proves_nothing():
    assert judge_leak(load(Step("soak", GOOD, IDLE, "")).candidate, "tag").outcome == "inconclusive"


def test_a_service_that_was_gone_fails():
    gone = Step("climb", replace(GOOD, rate_rps=400, requests=600), IDLE, "")
    verdict = judge_overload(load(gone, Step("overload", OVER, IDLE, "")), "tag")
    assert verdict.outcome == "fail" and verdict.why == "the service was gone when 400/s were offered"
