"""What is said of a canary at one look, from counts alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erfinv

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.guardrails import (
    Assessment,
    ErrorRate,
    Finding,
    Guardrail,
    Latency,
    Metric,
    Predictions,
    Split,
    judge,
)
from pipelines.core.rollout.observation import Arm, Moments, Observation
from pipelines.core.rollout.quantiles import ENDS_MS

ALPHA = 0.05
PLAN = (
    ErrorRate(0.01),
    Latency(0.99, 1.5),
    Predictions(0.1),
    Metric("converted", "higher", 0.05, between=(0, 1)),
    Metric("minutes_late", "lower", 5.0),
    Split(),
)
SEVERITY = {"harmless": 0, "inconclusive": 1, "harm": 2}
NAN = float("nan")


def arm(
    requests: int, errors: float = 0.002, slower: float = 1.0, shift: float = 0.0, worse: float = 0.0
) -> Arm:
    """What that many requests come to, without chance: p99 of 81 ms, answers spread evenly over ten bins."""
    at = (np.arange(requests) + 0.5) / requests
    late = slower * np.exp(3 + 0.6 * np.sqrt(2) * erfinv(2 * at - 1))
    counts = np.histogram(late, (0, *ENDS_MS))[0].cumsum().tolist()
    bins = np.histogram(np.clip(at + shift, 0, 1), 10, (0, 1))[0].tolist()
    converted, minutes = requests * (0.2 - worse), 20 * at + 100 * worse
    metrics = {
        "converted": Moments(requests, converted, converted),
        "minutes_late": Moments(requests, float(minutes.sum()), float((minutes**2).sum())),
    }
    return Arm(requests, round(requests * errors), list(zip(ENDS_MS, counts, strict=True)), bins, metrics)


STABLE, ALIKE = arm(90_000), arm(10_000)


def look(canary: Arm | None = ALIKE, stable: Arm | None = STABLE, share: float = 0.1) -> Observation:
    return Observation(100, share, stable, canary)


def found(guardrail: Guardrail, observation: Observation, min_requests: int = 100) -> Finding:
    return judge(observation, [guardrail], ALPHA, min_requests).findings[0]


def test_a_canary_like_stable_is_harmless():
    assessment = judge(look(), PLAN, ALPHA, 100)
    assert assessment.outcome == "harmless", assessment.why
    assert [finding.name for finding in assessment.findings] == [
        "error_rate", "latency_p99", "predictions", "converted", "minutes_late", "split"]  # fmt: skip


@pytest.mark.parametrize(
    "guardrail, canary, says",
    [
        (PLAN[0], arm(1000, errors=0.052), "the canary fails more often: 5.2 % of 1,000 requests"),
        (PLAN[1], arm(1000, slower=3), "the canary is slower: the p99 is 225.3 to 247.9 ms"),
        (PLAN[2], arm(1000, shift=0.3), "the canary answers differently: of 1,000 and 90,000 answers"),
        (PLAN[3], arm(1000, worse=0.15), "the canary does worse: converted is 0.05 of 1,000"),
        (PLAN[4], arm(1000, worse=0.15), "the canary does worse: minutes_late is 25 of 1,000"),
        (PLAN[5], arm(1000), "traffic does not arrive as planned: the canary got 1.1 % of 91,000 requests"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_harm_is_told_with_figures(guardrail, canary, says):
    finding = found(guardrail, look(canary))
    assert finding.outcome == "harm" and finding.why.startswith(says), finding.why
    low, allowed = finding.numbers["low"], finding.numbers["allowed"]
    assert low is not None and allowed is not None and low > allowed


def test_harm_needs_no_minimum():
    assert found(PLAN[0], look(arm(12, errors=1.0)), min_requests=1000).outcome == "harm"


def test_too_few_requests_are_never_harmless():
    finding = found(PLAN[0], look(), min_requests=20_000)
    assert finding.outcome == "inconclusive" and finding.why.startswith("10,000 of 20,000 seen so far")
    for guardrail in PLAN[:4]:
        assert found(guardrail, look(arm(20)), min_requests=0).outcome == "inconclusive"


def test_few_values_without_limits_say_nothing():
    finding = found(PLAN[4], look(arm(99, worse=0.15)))
    assert finding.outcome == "inconclusive"
    assert finding.why == "minutes_late: minutes_late is known 99 times, and takes 100 in each release"


@pytest.mark.parametrize(
    "canary, says",
    [
        (None, "nothing is known of the canary"),
        (replace(ALIKE, requests=0, errors=0), "the canary has not answered a request yet"),
        (replace(ALIKE, errors=NAN), "nan errors of 10000 requests"),
        (replace(ALIKE, requests=NAN), "of nan requests"),
        (replace(ALIKE, errors=10_001), "10001 errors of 10000 requests"),
        (replace(ALIKE, errors=-1), "make no sense"),
    ],
    ids=str,
)
@pytest.mark.parametrize("guardrail", PLAN[:5], ids=lambda one: one.name)
def test_what_is_missing_or_makes_no_sense_is_inconclusive(guardrail, canary, says):
    finding = found(guardrail, look(canary))
    assert finding.outcome == "inconclusive" and says in finding.why


@pytest.mark.parametrize(
    "guardrail, canary",
    [
        (PLAN[1], replace(ALIKE, latencies=())),
        (PLAN[1], replace(ALIKE, latencies=[(10.0, 5), (float("inf"), NAN)])),
        (PLAN[1], replace(ALIKE, latencies=[(10.0, 5), (float("inf"), 3)])),
        (PLAN[1], replace(ALIKE, latencies=[(10.0, 0), (float("inf"), 0)])),
        (PLAN[1], replace(ALIKE, latencies=[(10.0, 5)])),
        (PLAN[2], replace(ALIKE, predictions=())),
        (PLAN[2], replace(ALIKE, predictions=(1, 2))),
        (PLAN[2], replace(ALIKE, predictions=(NAN,) * 10)),
        (PLAN[2], replace(ALIKE, predictions=(0,) * 10)),
        (PLAN[3], replace(ALIKE, metrics={})),
        (PLAN[3], replace(ALIKE, metrics={"converted": Moments(0, 0, 0)})),
        (PLAN[3], replace(ALIKE, metrics={"converted": Moments(100, NAN, 1)})),
        (PLAN[3], replace(ALIKE, metrics={"converted": Moments(100, 200, 200)})),
        (PLAN[4], replace(ALIKE, metrics={"minutes_late": Moments(1000, 5, float("inf"))})),
    ],
)
def test_figures_that_are_missing_or_make_no_sense_are_inconclusive(guardrail, canary):
    for observation in (look(canary), look(ALIKE, canary)):
        finding = found(guardrail, observation)
        assert finding.outcome == "inconclusive" and finding.why.startswith(f"{guardrail.name}: ")


def test_no_traffic_to_the_canary_is_a_broken_split():
    assert found(Split(), look(replace(ALIKE, requests=0, errors=0))).outcome == "harm"
    nothing = Arm(0, 0)
    assert found(Split(), look(nothing, nothing)).outcome == "inconclusive"
    assert found(Split(), look(None)).outcome == "inconclusive"


@pytest.mark.parametrize("share", [0.0, 1.0, NAN])
def test_where_nothing_is_split_there_is_no_split_to_test(share):
    assert found(Split(), look(share=share)).outcome == "inconclusive"


def test_one_finding_of_harm_is_harm_and_one_doubt_is_doubt():
    good, doubt, harm = (Finding(name, name, name) for name in ("harmless", "inconclusive", "harm"))  # type: ignore
    assert Assessment((good, doubt, harm)).outcome == "harm" and Assessment((good, doubt, harm)).why == "harm"
    assert Assessment((good, doubt)).outcome == "inconclusive"
    assert Assessment((good, good)).outcome == "harmless"
    assert judge(look(), [], ALPHA, 1) == Assessment(()) and Assessment(()).outcome == "inconclusive"


def test_alpha_is_shared_among_the_guardrails():
    alone = found(PLAN[0], look()).numbers
    among = judge(look(), PLAN, len(PLAN) * ALPHA, 100).findings[0].numbers
    assert alone == pytest.approx(among)


def test_findings_are_plain_json():
    assessment = judge(look(arm(5)), PLAN, ALPHA, 100)
    for finding in assessment.findings:
        assert json.loads(json.dumps(dict(finding.numbers), allow_nan=False)) == finding.numbers


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 300), st.data())
def test_more_errors_of_the_canary_are_never_less_harm(stable, canary, data):
    stable_errors, fewer = data.draw(st.integers(0, stable // 2)), data.draw(st.integers(0, canary - 1))
    more = data.draw(st.integers(fewer, canary))
    outcomes = [
        found(ErrorRate(0.01), look(Arm(canary, errors), Arm(stable, stable_errors)), 1).outcome
        for errors in (fewer, more)
    ]
    assert SEVERITY[outcomes[0]] <= SEVERITY[outcomes[1]]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_extreme_counts_have_finite_bounds(stable, stable_errors, canary, canary_errors):
    arms = []
    for good, bad in ((stable, stable_errors), (canary, canary_errors)):
        histogram = [(10.0, good), (20.0, good + bad), (np.inf, good + bad)]
        arms.append(
            Arm(good + bad, bad, histogram, (good, bad), {"converted": Moments(good + bad, bad, bad)})
        )
    for finding in judge(look(arms[1], arms[0]), (*PLAN[:4], Split()), ALPHA, 1).findings:
        bounds = finding.numbers.get("low"), finding.numbers.get("high")
        assert not finding.numbers or bounds[0] is not None, finding
        assert None in bounds or bounds[0] <= bounds[1], finding
        assert "nan" not in finding.why


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda: ErrorRate(1), "max_increase is 1; write a fraction such as 0.01."),
        (lambda: ErrorRate(NAN), "max_increase is nan; write a fraction such as 0.01."),
        (lambda: Latency(99, 1.5), "quantile is 99; write a fraction such as 0.99."),
        (lambda: Latency(0.99, 0.5), "max_ratio is 0.5; write 1 or more, such as 1.5."),
        (lambda: Predictions(10), "max_distance is 10; write a fraction such as 0.1."),
        (lambda: Metric("m", "up", 1), "better is 'up'; write higher or lower."),  # type: ignore
        (lambda: Metric("m", "lower", -1), "margin is -1; write 0 or more, in the metric's unit."),
        (lambda: Metric("m", "lower", 1, (1, 0)), "between is (1, 0); write the lower limit first."),
        (lambda: Split(2), "tolerance is 2; write a fraction such as 0.2."),
    ],
)
def test_impossible_limits_are_refused(wrong, says):
    with pytest.raises(SettingsInvalid) as refused:
        wrong()
    assert str(refused.value) == says


def watch(seed: int, seconds: int, errors: float, slower: float, shift: float, share: float = 0.1):
    """Of 100 requests a second, what is known at the end of each second, cumulated."""
    rng = np.random.default_rng(seed)
    counted = {}
    for name, part, worse in (
        ("stable", 1 - share, (0.002, 1.0, 0.0)),
        ("canary", share, (errors, slower, shift)),
    ):
        sizes = rng.poisson(100 * part, seconds)
        failed, late = rng.binomial(sizes, worse[0]).cumsum(), worse[1] * rng.lognormal(3, 0.6, sizes.sum())
        answers = np.clip(rng.random(sizes.sum()) + worse[2], 0, 1)
        counted[name] = sizes.cumsum(), failed, late, answers
    for second in range(seconds):
        arms = [_counted(second, *counted[name]) for name in ("stable", "canary")]
        yield Observation(second + 1, share, *arms)


def _counted(second, sizes, failed, late, answers) -> Arm:
    until = int(sizes[second])
    counts = np.histogram(late[:until], (0, *ENDS_MS))[0].cumsum().tolist()
    bins = np.histogram(answers[:until], 10, (0, 1))[0].tolist()
    return Arm(until, int(failed[second]), list(zip(ENDS_MS, counts, strict=True)), bins)


WATCHED = (*PLAN[:3], Split())


@pytest.mark.parametrize("canary", [(0.052, 1.0, 0.0), (0.002, 3.0, 0.0), (0.002, 1.0, 0.3)], ids=str)
def test_harm_is_found_within_a_quarter_of_three_windows_of_a_minute(canary):
    taken = []
    for seed in range(9):
        looks = watch(seed, 120, *canary)
        harmed = (look.seconds for look in looks if judge(look, WATCHED, ALPHA, 100).outcome == "harm")
        taken.append(next(harmed, 120))
    assert np.median(taken) <= 180 / 4


def test_a_canary_like_stable_is_left_alone():
    """Ten canaries of two minutes, with limits that allow nothing at all."""
    strict = (ErrorRate(0), Latency(0.99, 1), Predictions(0), Split(0))
    alarms = sum(
        any(
            judge(look, strict, ALPHA, 100).outcome == "harm"
            for look in list(watch(seed, 120, 0.002, 1, 0))[::4]
        )
        for seed in range(10)
    )
    assert alarms <= 3
