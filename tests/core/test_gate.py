"""The gate on made-up evidence: what it must refuse, what it must let pass, and what it says."""

import re
from dataclasses import replace

import numpy as np
import pytest

from pipelines.core.fairness import Gap
from pipelines.core.findings import Holdout
from pipelines.core.gate import (
    Trial,
    judge_against_production,
    judge_groups,
    judge_ladder,
    judge_rung,
)
from pipelines.core.invariance import Invariance
from pipelines.core.ladder import Ladder, choose
from pipelines.core.metrics import metric_of
from pipelines.core.spec import GateSpec
from pipelines.core.speed import Speed

SPEC = GateSpec()
ROWS = 8000
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, ROWS)
FP32 = 1 / (1 + np.exp(-(LABELS * 1.0 + RNG.normal(size=ROWS) - 0.5)))
VECTORS = RNG.normal(size=(ROWS, 4))
HOLDOUT = Holdout(LABELS, {}, "p", metric_of("auc", 0.5))
STILL = Invariance(0.0, 0.0, 0)


def speeds(times: float) -> dict[int, Speed]:
    return {rows: Speed(100 / times, times, times * 0.95, times * 1.05) for rows in (1, 8, 64)}


def report(rung="int8_static", scores=FP32, vectors=VECTORS, invariance=STILL, speed=None, **judged):
    outputs = {"p": scores, "vector": vectors}
    trial = Trial(rung, "ab" * 32, 1000, {}, outputs, invariance, {"cpu": 9}, speed or speeds(2.0))
    holdout, spec = judged.get("holdout", HOLDOUT), judged.get("spec", SPEC)
    rows = len(holdout.labels)
    fp32 = {"p": FP32[:rows], "vector": VECTORS[:rows]}
    short = {name: values[:rows] for name, values in outputs.items()}
    return judge_rung(replace(trial, outputs=short), fp32, holdout, spec)


def test_an_equal_and_faster_rung_passes():
    assert (report().outcome, report().why) == ("pass", "")


@pytest.mark.parametrize(
    ("evidence", "says"),
    [
        ({"scores": RNG.random(ROWS)}, r"loses 0\.2\d+ auc, more than 0\.005 \(at least 0\.2"),
        ({"scores": FP32**4}, r"moves p by 0\.\d+ on average, more than 0\.02"),
        ({"scores": np.abs(FP32 - 0.001 * (FP32 > 0.9))}, "^$"),
        ({"vectors": VECTORS + RNG.normal(size=VECTORS.shape)}, r"turns vector by 1 - cosine 0\.\d+ on"),
        ({"invariance": Invariance(0.0, 0.03, 2)}, "a row's batch mates move its answer by 0.03, more than"),
        ({"speed": speeds(0.9)}, r"is not faster than fp32 \(0\.90x\)"),
        ({"speed": speeds(1.0)}, r"is not faster than fp32 \(1\.00x\)"),
        ({"speed": {**speeds(3.0), 1: Speed(9, 0.7, 0.6, 0.8)}}, r"is slower than fp32 at 1 rows \(0\.70x\)"),
    ],
)
def test_the_gate_refuses(evidence, says):
    found = report(**evidence)
    assert found.outcome == ("pass" if says == "^$" else "fail")
    assert re.search(says, found.why), found.why


def test_auc_alone_would_not_have_seen_a_ruined_calibration():
    found = report(scores=FP32**4)
    assert found.drop == pytest.approx(0, abs=1e-9)
    assert found.outcome == "fail" and "its probabilities are off by 0." in found.why


def test_decisions_that_turn_count_even_where_answers_hardly_move():
    near = FP32 + np.where(np.abs(FP32 - 0.5) < 0.02, 0.019 * np.sign(0.5 - FP32), 0)
    nearer = np.where(np.abs(FP32 - 0.5) < 0.02, 1 - FP32, near)
    found = report(scores=nearer)
    assert found.mean_shift < SPEC.max_mean_shift
    assert f"turns {found.flips} of {ROWS} decisions" in found.why


def test_fp32_need_not_be_faster_than_itself():
    assert report("fp32", speed=speeds(1.0)).outcome == "pass"


def test_too_few_rows_cannot_tell_and_it_says_how_many_could():
    few = replace(HOLDOUT, labels=LABELS[:600])
    found = report(scores=FP32 + RNG.normal(size=ROWS) * 0.012, holdout=few, spec=GateSpec(max_drop=0.0005))
    assert found.outcome == "inconclusive"
    assert "auc, more than 0.0005: 600 rows cannot tell, about " in found.why


def test_scores_that_are_no_probabilities_have_no_calibration():
    logits = np.log(FP32 / (1 - FP32))
    holdout = replace(HOLDOUT, metric=metric_of("auc", 0.5))
    trial = Trial("fp32", "x", 1, {}, {"p": logits}, STILL, {}, speeds(1.0))
    found = judge_rung(trial, {"p": logits}, holdout, SPEC)
    assert (found.outcome, found.calibration_error, found.calibration_rise) == ("pass", None, None)


@pytest.mark.parametrize(
    ("metric", "labels", "scores"),
    [
        ("accuracy", LABELS, FP32),
        ("log_loss", LABELS, FP32),
        ("rmse", LABELS.astype(float), FP32),
        ("cosine", VECTORS, VECTORS + RNG.normal(size=VECTORS.shape) * 0.1),
    ],
)
def test_any_metric_judges_a_rung_against_itself(metric, labels, scores):
    holdout = Holdout(labels, {}, "p", metric_of(metric, 0.5))
    trial = Trial("int8_static", "x", 1, {}, {"p": scores}, STILL, {}, speeds(2.0))
    found = judge_rung(trial, {"p": scores}, holdout, SPEC)
    assert (found.outcome, found.drop) == ("pass", pytest.approx(0, abs=1e-12)), found.why


def test_the_fastest_passing_rung_wins_and_the_others_say_why():
    reports = [
        report("fp32", speed=speeds(1.0)),
        report("int8_dynamic", speed=speeds(3.0), invariance=Invariance(0.1, 0.1, 9)),
        report("int8_static", speed=speeds(2.0)),
    ]
    ladder = choose(reports, SPEC, ROWS)
    assert ladder.chosen == "int8_static"
    assert [found.why for found in ladder.rungs] == [
        "passed, but int8_static is faster (2.00x against 1.00x)",
        "a row's batch mates move its answer by 0.1, more than 0.001",
        "the fastest that passed everything",
    ]


def test_a_tie_goes_to_the_more_exact_rung():
    rough = report("int8_dynamic", scores=FP32 * 0.999, speed=speeds(2.02))
    ladder = choose([report("fp32", speed=speeds(1.0)), rough, report(speed=speeds(2.0))], SPEC, ROWS)
    assert ladder.chosen == "int8_static"
    assert ladder.rungs[1].why == "passed, but int8_static is as fast and more exact"


@pytest.mark.parametrize(
    ("labels", "says"),
    [(LABELS[:100], "100 holdout rows are fewer than 500"), (np.zeros(ROWS, int), "all 8,000 labels are 0")],
)
def test_thin_evidence_is_inconclusive_and_releases_nothing(labels, says):
    ladder = choose([report("fp32", holdout=replace(HOLDOUT, labels=labels))], SPEC, len(labels))
    verdict = judge_ladder(ladder)
    assert (ladder.chosen, verdict.outcome, verdict.passed) == (None, "inconclusive", False)
    assert says in verdict.why


def test_a_ladder_survives_its_file(tmp_path):
    sliced = replace(HOLDOUT, masks={"odd rows": np.arange(ROWS) % 2 == 1})
    ladder = choose([report("fp32", speed=speeds(1.0), holdout=sliced), report()], SPEC, ROWS)
    ladder.save(tmp_path / "ladder.json")
    assert Ladder.load(tmp_path / "ladder.json") == ladder
    assert "**int8_static**" in ladder.markdown()


# Against the version in production.


def against(production, candidate, masks=None, spec=SPEC, version="1"):
    holdout = replace(HOLDOUT, masks=masks or {})
    return judge_against_production(production, candidate, holdout, spec, "x", version)


def test_the_first_release_has_nothing_to_compare_with():
    verdict, slices = against(None, FP32, version=None)
    assert (verdict.passed, verdict.why, slices) == (True, "no other version is in production", ())


def test_a_version_worse_than_production_is_refused_with_numbers():
    verdict, _ = against(FP32, FP32 + RNG.normal(size=ROWS) * 0.3)
    assert verdict.outcome == "fail"
    assert "auc against version 1, more than 0.005" in verdict.why
    assert verdict.numbers["drop_bound"] > 0.005 and verdict.numbers["production_version"] == "1"


def test_a_version_that_is_better_overall_and_worse_on_a_slice_is_refused():
    small = np.arange(ROWS) < 1200
    better = FP32 + 0.1 * (LABELS - 0.5)
    worse_for_some = np.where(small, FP32 + RNG.normal(size=ROWS) * 0.5, better)
    verdict, slices = against(FP32, worse_for_some, {"carrier=HA": small, "carrier=UA": ~small})
    assert verdict.numbers["drop"] < 0, "better overall"
    assert verdict.outcome == "fail" and "on carrier=HA (1,200 rows" in verdict.why
    assert [found.outcome for found in slices] == ["fail", "pass"]


def test_wrong_passes_stay_at_the_level_that_was_asked_for():
    """Two scorers whose true difference is exactly the margin are let pass at most α often."""
    spec, passed = GateSpec(max_drop=0.0), 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 600)
        signal = labels + rng.normal(size=600)
        ours, theirs = (signal + rng.normal(size=600) * 0.5 for _ in range(2))
        holdout = replace(HOLDOUT, labels=labels)
        passed += judge_against_production(theirs, ours, holdout, spec, "x", "1")[0].passed
    assert passed / 300 <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5


def test_wrong_refusals_of_equal_versions_stay_at_the_level_that_was_asked_for():
    """200 pairs without a true difference, with eight slices each: the gate fails at most α of them."""
    failed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 1600)
        signal = labels + rng.normal(size=1600)
        ours, theirs = (signal + rng.normal(size=1600) * 0.5 for _ in range(2))
        masks = {f"group={g}": np.arange(1600) % 8 == g for g in range(8)}
        holdout = replace(HOLDOUT, labels=labels, masks=masks)
        verdict, _ = judge_against_production(theirs, ours, holdout, replace_spec(0.0), "x", "1")
        failed += verdict.outcome == "fail"
    assert failed / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def replace_spec(margin: float) -> GateSpec:
    return GateSpec(max_drop=margin, max_slice_drop=margin)


# Between groups.


def gap(outcome, width):
    return Gap("sex", "positive decisions", outcome, f"a gap of {width}", width, width - 0.02, width + 0.02)


@pytest.mark.parametrize(
    ("gaps", "outcome", "says"),
    [
        ((), "pass", "no limits between groups are set"),
        ((gap("pass", 0.01), gap("pass", 0.03)), "pass", "the largest is 0.030"),
        ((gap("pass", 0.01), gap("fail", 0.3)), "fail", "a gap of 0.3"),
        ((gap("inconclusive", 0.1),), "inconclusive", "a gap of 0.1"),
    ],
)
def test_gaps_between_groups_add_up_to_a_verdict(gaps, outcome, says):
    verdict = judge_groups(gaps, "x")
    assert verdict.outcome == outcome and says in verdict.why
