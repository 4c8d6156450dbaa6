"""Slices of a frame, and verdicts on them: by hand, and how often they are wrong in simulation."""

import numpy as np
import pandas as pd
import pytest

from pipelines.core.errors import ContractBroken
from pipelines.core.metrics import metric_of
from pipelines.core.slices import judge_slices, slice_masks
from pipelines.core.spec import GateSpec

AUC = metric_of("auc", 0.5)


def _sizes(frame: pd.DataFrame, *columns: str) -> dict[str, int]:
    masks = slice_masks(frame, columns)
    for column in columns:
        mine = [mask for name, mask in masks.items() if name.split(" ")[0].split("=")[0] == column]
        assert (np.sum(mine, axis=0) == 1).all(), "each row is in one slice of a column"
    return {name: int(mask.sum()) for name, mask in masks.items()}


def test_few_values_are_slices_of_their_own():
    frame = pd.DataFrame(
        {
            "carrier": ["UA", "AA", "UA", None],
            "night": [True, False, False, False],
            "stops": [0, 2, 0, 0],
            "rating": [0.5, np.nan, 0.5, 3.0],
            "kind": pd.Categorical(["a", "b", "a", "b"], categories=["a", "b", "unused"]),
        }
    )
    assert _sizes(frame, "carrier") == {"carrier is empty": 1, "carrier=UA": 2, "carrier=AA": 1}
    assert _sizes(frame, "night") == {"night=False": 3, "night=True": 1}
    assert _sizes(frame, "stops") == {"stops=0": 3, "stops=2": 1}
    assert _sizes(frame, "rating") == {"rating is empty": 1, "rating=0.5": 2, "rating=3": 1}
    assert _sizes(frame, "kind", "stops") == {"kind=a": 2, "kind=b": 2, "stops=0": 3, "stops=2": 1}


def test_many_numbers_are_sliced_by_quartiles():
    frame = pd.DataFrame({"distance": np.arange(101) * 10, "delay": [np.nan, *np.linspace(0, 1, 100)]})
    assert _sizes(frame, "distance") == {
        "distance in [0, 250)": 25,
        "distance in [250, 500)": 25,
        "distance in [500, 750)": 25,
        "distance in [750, 1000]": 26,
    }
    assert sum(_sizes(frame, "delay").values()) == 101
    assert _sizes(frame, "delay")["delay is empty"] == 1


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([0.0] * 60 + list(range(1, 41))),
        pd.Series([None, *range(99)], dtype="Int64"),
        pd.Series(pd.date_range("2026-01-01", periods=100)),
        pd.Series([-np.inf, *range(98), np.inf]),
        pd.Series(np.random.default_rng(0).normal(size=100), dtype="float32"),
        pd.Series(np.arange(100) + 10**12),
    ],
    ids=["ties", "nullable", "dates", "infinite", "float32", "large"],
)
def test_every_row_of_any_number_is_in_one_slice(values):
    assert sum(_sizes(pd.DataFrame({"x": values}), "x").values()) == 100


def test_rare_values_of_a_column_with_very_many_share_a_slice():
    frame = pd.DataFrame({"dest": [f"D{i}" for i in range(150)] + ["D0", "D1"]})
    sizes = _sizes(frame, "dest")
    assert (len(sizes), sizes["dest=D0"], sizes["dest in 50 rarer values"]) == (101, 2, 50)


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(ContractBroken, match="no column carier to slice by"):
        slice_masks(pd.DataFrame({"carrier": ["UA"]}), ["carier"])


def _pair(seed: int, rows: int, noise: float = 0.3):
    """Labels and two scorers that are equally good."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    signal = labels + rng.normal(size=rows)
    return labels, *(signal + noise * rng.normal(size=rows) for _ in range(2))


def _parts(rows: int, parts: int) -> dict[str, np.ndarray]:
    return {f"part={i}": np.arange(rows) % parts == i for i in range(parts)}


def test_better_overall_and_worse_on_one_slice_is_caught():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 6000)
    part = np.arange(6000) % 6
    before = labels + rng.normal(size=6000)
    after = labels * np.where(part == 3, 0.3, 1.4) + (before - labels)
    assert AUC.loss(labels, before, after).bound(0.95) < 0
    results = judge_slices(AUC, labels, before, after, _parts(6000, 6), GateSpec())
    assert [result.outcome for result in results] == ["pass", "pass", "pass", "fail", "pass", "pass"]
    worst = results[3]
    assert worst.why.startswith("auc is 0.1") and "worse on part=3 (1,000 rows" in worst.why
    assert worst.why.endswith("surely more than 0.02")
    assert (worst.drop, worst.rows) == (pytest.approx(worst.reference - worst.candidate), 1000)


def test_thin_slices_and_those_the_metric_refuses_are_inconclusive():
    labels, before, after = _pair(1, 1000)
    masks = {
        "few": np.arange(1000) < 50,
        "ones": labels == 1,
        "fine": np.arange(1000) < 600,
        "none": np.zeros(1000, bool),
    }
    found = {r.slice: r for r in judge_slices(AUC, labels, before, after, masks, GateSpec())}
    assert found["few"].why == "50 rows are fewer than 200"
    assert found["ones"].why == f"all {labels.sum()} labels are 1"
    assert [found[name].outcome for name in masks] == ["inconclusive", "inconclusive", "pass", "inconclusive"]
    assert (found["few"].p_value, found["ones"].drop) == (None, None)


def test_p_values_are_adjusted_for_the_number_of_slices():
    labels, before, _ = _pair(2, 4000)
    worse = before + np.where(np.arange(4000) % 20 == 0, 2.0, 0) * np.random.default_rng(0).normal(size=4000)
    spec = GateSpec(max_slice_drop=0.0)
    alone = judge_slices(AUC, labels, before, worse, {"it": np.arange(4000) % 20 == 0}, spec)[0]
    among = judge_slices(AUC, labels, before, worse, _parts(4000, 20), spec)[0]
    assert alone.p_value == pytest.approx(AUC.loss(labels[::20], before[::20], worse[::20]).p_value(0))
    assert among.p_value == pytest.approx(20 * alone.p_value)


def test_an_own_metric_whose_error_is_unknown_is_inconclusive(tmp_path, monkeypatch):
    (tmp_path / "fragile.py").write_text(
        "def f(labels, predictions):\n"
        "    if len(set(predictions)) < len(predictions): raise ValueError\n"
        "    return 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    labels, before, after = _pair(3, 400)
    metric = metric_of("fragile:f", 0.5)
    (result,) = judge_slices(metric, labels, before, after, {"all": np.ones(400, bool)}, GateSpec())
    assert (result.outcome, result.why) == ("inconclusive", "the error of fragile:f is not known here")


@pytest.mark.parametrize(("margin", "slice_margin"), [(0.005, 0.02), (0.0, 0.0)])
def test_equal_models_are_refused_at_most_alpha_often(margin, slice_margin):
    """200 pairs without a true difference on 1,600 rows, 8 slices of 200. With no margin at all, the overall
    test and the tests of the slices may each be wrong α often."""
    spec = GateSpec(max_drop=margin, max_slice_drop=slice_margin)
    overall = sliced = refused = 0
    for seed in range(200):
        labels, before, after = _pair(seed, 1600)
        worse = AUC.loss(labels, before, after).floor(spec.confidence) > spec.max_drop
        results = judge_slices(AUC, labels, before, after, _parts(1600, 8), spec)
        somewhere = any(result.outcome == "fail" for result in results)
        overall, sliced, refused = overall + worse, sliced + somewhere, refused + (worse or somewhere)
    tolerated = 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    assert max(overall, sliced) / 200 <= tolerated
    assert margin == 0 or refused / 200 <= 0.05


def test_of_the_slices_that_fail_few_are_innocent():
    """Half the slices are truly worse: among all that fail, at most 1 - confidence are not."""
    innocent = guilty = 0
    spec = GateSpec(max_slice_drop=0.0)
    for seed in range(40):
        labels, before, after = _pair(seed, 4000)
        after = np.where(np.arange(4000) % 20 < 10, after - 0.6 * labels, after)
        for i, result in enumerate(judge_slices(AUC, labels, before, after, _parts(4000, 20), spec)):
            innocent += result.outcome == "fail" and i >= 10
            guilty += result.outcome == "fail" and i < 10
    assert guilty > 350
    assert innocent / (innocent + guilty) <= 0.05
