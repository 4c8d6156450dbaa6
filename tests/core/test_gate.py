"""The gate on made-up evidence: what it must refuse, what it must let pass, and what it says."""

import numpy as np
import pytest

from pipelines.core.gate import judge_against_production, judge_ladder, report_rung
from pipelines.core.ladder import Ladder, choose
from pipelines.core.spec import GateSpec
from pipelines.core.speed import Speed

SPEC = GateSpec()
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 4000)
FP32 = 1 / (1 + np.exp(-(LABELS * 1.0 + RNG.normal(size=4000) - 0.5)))


def _speeds(times: float) -> dict[int, Speed]:
    return {rows: Speed(100 / times, times, times * 0.95, times * 1.05) for rows in (1, 8, 64)}


def _report(rung="int8_static", scores=FP32, batch_shift=0.0, speedup=2.0, labels=LABELS, spec=SPEC):
    return report_rung(rung, "ab" * 32, 1000, labels, FP32[: len(labels)], scores, batch_shift,
                       _speeds(speedup), spec)  # fmt: skip


def test_an_equal_and_faster_rung_passes():
    assert (_report().outcome, _report().why) == ("pass", "")


@pytest.mark.parametrize(
    ("evidence", "says"),
    [
        ({"scores": FP32 * 0 + RNG.random(4000)}, "may lose 0."),
        ({"scores": FP32**4}, "moves answers by 0."),
        ({"batch_shift": 0.03}, "a row's batch mates move its answer by 0.03"),
        ({"speedup": 0.9}, "is not faster than fp32 (0.90x)"),
        ({"speedup": 1.0}, "is not faster than fp32 (1.00x)"),
    ],
)
def test_the_gate_refuses(evidence, says):
    report = _report(**evidence)
    assert report.outcome == "fail"
    assert says in report.why


def test_auc_alone_would_not_have_seen_a_ruined_calibration():
    report = _report(scores=FP32**4)
    assert report.drop == pytest.approx(0, abs=1e-9)
    assert report.outcome == "fail"


def test_fp32_need_not_be_faster_than_itself():
    assert _report("fp32", speedup=1.0).outcome == "pass"


def test_the_fastest_passing_rung_wins_and_the_others_say_why():
    reports = [_report("fp32", speedup=1.0), _report("int8_dynamic", speedup=3.0, batch_shift=0.1),
               _report("int8_static", speedup=2.0)]  # fmt: skip
    ladder = choose(reports, SPEC, 4000)
    assert ladder.chosen == "int8_static"
    assert [report.why for report in ladder.rungs] == [
        "passed, but int8_static is faster (2.00x against 1.00x)",
        "a row's batch mates move its answer by 0.1, more than 0.001",
        "the fastest that passed everything",
    ]


def test_a_tie_goes_to_the_more_exact_rung():
    rough = _report("int8_dynamic", scores=FP32 + 0.001, speedup=2.02)
    ladder = choose([_report("fp32", speedup=1.0), rough, _report("int8_static", speedup=2.0)], SPEC, 4000)
    assert ladder.chosen == "int8_static"
    assert ladder.rungs[1].why == "passed, but int8_static is as fast and more exact"


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (LABELS[:100], "100 holdout rows are fewer than 500"),
        (np.zeros(4000), "all 4000 holdout rows have the same label"),
    ],
)
def test_thin_evidence_is_inconclusive_and_releases_nothing(labels, says):
    ladder = choose([_report("fp32", FP32[: len(labels)], labels=labels)], SPEC, len(labels))
    verdict = judge_ladder(ladder)
    assert (ladder.chosen, verdict.outcome, verdict.passed) == (None, "inconclusive", False)
    assert says in verdict.why


def test_a_ladder_survives_its_file(tmp_path):
    ladder = choose([_report("fp32", speedup=1.0), _report()], SPEC, 4000)
    ladder.save(tmp_path / "ladder.json")
    assert Ladder.load(tmp_path / "ladder.json") == ladder
    assert "**int8_static**" in ladder.markdown()


def test_the_first_release_has_nothing_to_compare_with():
    verdict = judge_against_production(LABELS, None, FP32, SPEC, "x", None)
    assert (verdict.passed, verdict.why) == (True, "no other version is in production")


def test_a_version_worse_than_production_is_refused_with_numbers():
    worse = FP32 + RNG.normal(size=4000) * 0.3
    verdict = judge_against_production(LABELS, FP32, worse, SPEC, "x", "1")
    assert not verdict.passed
    assert "against version 1, more than 0.005" in verdict.why
    assert verdict.numbers["drop_bound"] > 0.005


def test_wrong_passes_stay_at_the_level_that_was_asked_for():
    """Two scorers whose true difference is exactly the margin are let pass at most α often."""
    spec, passed = GateSpec(max_drop=0.0), 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 600)
        signal = labels + rng.normal(size=600)
        ours, theirs = (signal + rng.normal(size=600) * 0.5 for _ in range(2))
        passed += judge_against_production(labels, theirs, ours, spec, "x", "1").passed
    assert passed / 300 <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
