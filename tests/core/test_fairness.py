"""Gaps between groups: against published intervals, in simulation, and the sentences they write."""

import numpy as np
import pandas as pd
import pytest

from pipelines.core.errors import ContractBroken
from pipelines.core.fairness import DECISIONS, FOUND, judge_fairness, widest_gap
from pipelines.core.spec import FairnessSpec

SPEC = FairnessSpec(columns=["sex"], max_gap=0.1)


def _people(rates: dict[str, float], rows: int = 2000, seed: int = 0):
    """A frame with a group each, labels, and predictions that say yes to the given share of a group."""
    rng = np.random.default_rng(seed)
    sex = np.repeat(list(rates), rows)
    yes = np.concatenate([np.arange(rows) < rate * rows for rate in rates.values()])
    return pd.DataFrame({"sex": sex}), rng.integers(0, 2, len(sex)), np.where(yes, 0.9, 0.1)


def _judge(people, spec=SPEC, threshold=0.5, min_rows=200):
    return judge_fairness(*people, spec, threshold, 0.95, min_rows)


def test_two_groups_have_newcombes_published_interval():
    gap, low, high = widest_gap(np.array([56, 48]), np.array([70, 80]), 0.95)
    assert (gap, low, high) == (
        pytest.approx(0.2),
        pytest.approx(0.0524, abs=5e-5),
        pytest.approx(0.3339, abs=5e-5),
    )
    assert widest_gap(np.array([48, 56]), np.array([80, 70]), 0.95) == pytest.approx((gap, low, high))


def test_no_case_at_all_is_no_certainty():
    gap, low, high = widest_gap(np.array([0, 0]), np.array([300, 300]), 0.95)
    assert (gap, low) == (0, 0)
    assert 0.01 < high < 0.02


@pytest.mark.parametrize(
    ("shares", "rows"),
    [
        ([0.2, 0.2], [200, 200]),
        ([0.3, 0.2], [200, 800]),
        ([0.2] * 5, [200] * 5),
        ([0.35] + [0.25] * 11, [200] * 12),
        ([0.02, 0.03, 0.05], [200, 400, 800]),
    ],
)
def test_the_interval_of_the_widest_gap_covers_it(shares, rows):
    """A bootstrap of the widest of five equal groups never covers: taking the widest pushes it up."""
    rng, truth = np.random.default_rng(0), max(shares) - min(shares)
    found = [widest_gap(rng.binomial(rows, shares), np.array(rows), 0.95) for _ in range(400)]
    assert np.mean([low <= truth <= high for _, low, high in found]) >= 0.95 - 3 * (0.05 * 0.95 / 400) ** 0.5


@pytest.mark.parametrize(
    ("rates", "outcome"),
    [
        ({"f": 0.40, "m": 0.42}, "pass"),
        ({"f": 0.40, "m": 0.60}, "fail"),
        ({"f": 0.40, "m": 0.50}, "inconclusive"),
        ({"f": 0.40, "m": 0.42, "x": 0.62}, "fail"),
    ],
)
def test_the_whole_interval_decides(rates, outcome):
    decisions, found = _judge(_people(rates))
    assert (decisions.rate, found.rate) == (DECISIONS, FOUND)
    assert (decisions.outcome, decisions.column) == (outcome, "sex")


def test_a_gap_names_its_groups_and_numbers():
    gap = _judge(_people({"f": 0.4, "m": 0.6, "x": 0.5}))[0]
    assert gap.groups == ("sex=m", "sex=f")
    assert gap.gap == pytest.approx(0.2)
    assert gap.why.startswith("positive decisions: 60.0% of sex=m, 40.0% of sex=f, a gap of 0.200 [0.1")
    assert gap.why.endswith("where 0.1 is allowed")


def test_only_the_truly_positive_count_for_those_found():
    frame, labels, predictions = _people({"f": 0.5, "m": 0.5})
    labels = ((predictions > 0.5) & (frame["sex"] == "f")).to_numpy() | (np.arange(4000) % 4 == 0)
    decisions, found = judge_fairness(frame, labels.astype(int), predictions, SPEC, 0.5, 0.95, 200)
    assert (decisions.outcome, found.outcome) == ("pass", "fail")
    assert found.gap == pytest.approx(1000 / 1250 - 0.5)


def test_the_threshold_decides():
    people = _people({"f": 0.4, "m": 0.6})
    assert _judge(people, threshold=0.05)[0].gap == 0
    assert _judge(people, threshold=0.5)[0].gap == pytest.approx(0.2)


def test_small_groups_are_left_out_and_named():
    frame, labels, predictions = _people({"f": 0.4, "m": 0.4, "x": 0.9})
    few = np.arange(6000) < 4100
    gap = judge_fairness(frame[few], labels[few], predictions[few], SPEC, 0.5, 0.95, 200)[0]
    assert (gap.outcome, gap.left_out) == ("pass", ("sex=x",))
    assert gap.why.endswith("; too few rows to compare: sex=x")


def test_empty_values_are_a_group_and_numbers_are_grouped():
    frame, labels, predictions = _people({"f": 0.4, "m": 0.6})
    frame["sex"] = frame["sex"].where(frame["sex"] == "f")
    frame["age"] = np.tile(np.arange(20, 60), 100)
    spec = FairnessSpec(columns=["sex", "age"])
    gaps = judge_fairness(frame, labels, predictions, spec, 0.5, 0.95, 200)
    assert [gap.column for gap in gaps] == ["sex", "sex", "age", "age"]
    assert gaps[0].groups == ("sex is empty", "sex=f")
    assert gaps[2].groups is not None and gaps[2].groups[0].startswith("age in [")


@pytest.mark.parametrize(
    ("people", "says"),
    [
        (_people({"f": 0.4}), "sex has 1 groups of at least 200 rows, two are needed"),
        ((*_people({"f": 0.4, "m": 0.4})[:2], np.zeros((4000, 3))), "no yes-or-no decisions"),
        ((*_people({"f": 0.4, "m": 0.4})[:2], np.full(4000, np.nan)), "predictions are NaN"),
        ((pd.DataFrame({"sex": ["f"] * 9}), np.arange(9), np.zeros(9)), "labels other than 0 and 1"),
    ],
)
def test_what_cannot_be_compared_is_inconclusive(people, says):
    gaps = _judge(people)
    assert [gap.outcome for gap in gaps] == ["inconclusive"] * 2
    assert all(says in gap.why and gap.gap is None for gap in gaps)


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(ContractBroken, match="no column gender"):
        _judge(_people({"f": 0.4, "m": 0.4}), FairnessSpec(columns=["gender"]))
