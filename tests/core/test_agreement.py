"""What a shadow shows: agreement by request, distances, times, the worst rows, and what an A/B would take."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.agreement import Agreement, Same, agreement
from pipelines.core.rollout.sample_size import users_for_rates

SIDE = Same("probability", 0.5)


def pairs(stable, canary, requests=None, slower_ms=0.0) -> pd.DataFrame:
    ids = requests or [f"r{at}" for at in range(len(stable))]
    took = pd.DataFrame({"stable_ms": 5.0, "canary_ms": 5.0 + slower_ms}, index=range(len(stable)))
    found = pd.DataFrame({"request_id": ids, "stable": stable, "canary": canary})
    return found.assign(row=found.groupby("request_id").cumcount()).join(took)


def drawn(rng: np.random.Generator, rows: int, noise: float, first: int = 0) -> pd.DataFrame:
    stable = rng.random(rows)
    canary = (stable + rng.normal(0, noise, rows)).clip(0, 1)
    return pairs(stable, canary, [f"r{first + at}" for at in range(rows)], rng.normal(2, 1, rows))


@pytest.mark.parametrize(
    ("same", "stable", "canary", "alike"),
    [
        (Same("label"), ["cat", "dog", None], ["cat", "cat", None], 2 / 3),
        (SIDE, [0.4, 0.6, 0.49], [0.1, 0.51, 0.5], 2 / 3),
        (SIDE, [[0.2, 0.7, 0.1], [0.1, 0.4, 0.5]], [[0.3, 0.6, 0.1], [0.1, 0.5, 0.4]], 1 / 2),
        (Same("probability", 0.9), [[0.2, 0.8]], [[0.05, 0.95]], 0.0),
        (Same("value", 0.5), [1.0, 2.0, np.nan, np.nan], [1.5, 2.6, np.nan, 3.0], 2 / 4),
    ],
    ids=["labels", "threshold", "classes", "two classes", "values"],
)
def test_what_counts_as_the_same_decision(same: Same, stable, canary, alike: float):
    assert agreement([pairs(stable, canary)], same).agree.value == pytest.approx(alike)


def test_a_request_counts_once_however_many_rows_it_has():
    chunk = pairs([0.1] * 99 + [0.9], [0.9] * 99 + [0.9], ["large"] * 99 + ["small"])
    found = agreement([chunk], SIDE)
    assert (found.requests, found.rows, found.agree.value) == (2, 100, 0.5)


def test_chunks_add_up_to_the_whole():
    rng = np.random.default_rng(0)
    chunks = [drawn(rng, 500, 0.1, first) for first in range(0, 2000, 500)]
    parts, whole = agreement(chunks, SIDE, 0.2), agreement([pd.concat(chunks)], SIDE, 0.2)
    assert parts.apart_mean == pytest.approx(whole.apart_mean)
    assert replace(parts, apart_mean=whole.apart_mean) == whole and len(whole.disagreements) == 20


def test_figures_are_those_of_the_pairs():
    chunk = drawn(np.random.default_rng(1), 5000, 0.1)
    apart = (chunk["canary"] - chunk["stable"]).abs()
    found = agreement([chunk], SIDE, top=5)
    assert found.apart_mean == pytest.approx(apart.mean()) and found.apart_max == apart.max()
    for name, share in {"p50": 0.5, "p90": 0.9, "p99": 0.99}.items():
        estimate, truth = found.slower_ms[name], (chunk["canary_ms"] - chunk["stable_ms"]).quantile(share)
        assert estimate.value == pytest.approx(truth, rel=0.06)
        assert found.apart[name].value == pytest.approx(apart.quantile(share), rel=0.06)
        assert estimate.low < truth and (estimate.high is None or truth < estimate.high)
    worst = [each.apart for each in found.disagreements]
    assert worst == sorted(apart[(chunk["stable"] >= 0.5) != (chunk["canary"] >= 0.5)])[:-6:-1]


def test_the_interval_holds_at_all_looks():
    rng, misses = np.random.default_rng(2), 0
    for _ in range(15):
        alike = rng.random(2000) < 0.9
        looks = [agreement([pairs(np.ones(n), alike[:n] * 1.0)], SIDE).agree for n in (5, 100, 2000)]
        misses += any(not look.low <= 0.9 <= look.high for look in looks)
    assert misses <= 2


def test_no_more_users_are_needed_than_show_the_largest_effect():
    chunk = pairs([0.9] * 100, [0.1] * 4 + [0.9] * 96)
    assert agreement([chunk], SIDE, 0.3).users == users_for_rates(0.3, 0.04)
    assert agreement([chunk], SIDE, 0.99).users == users_for_rates(0.99, -0.04)
    assert agreement([chunk], SIDE).users is None
    assert agreement([pairs([0.9], [0.8])], SIDE, 0.3).users is None


def test_nothing_answered_by_both_is_known_as_such():
    found = agreement([], SIDE, 0.2)
    assert found.requests == 0 and found.agree.value is None and found.apart["p50"].value is None


def test_answers_that_are_no_numbers_come_first_and_survive_json(tmp_path):
    found = agreement([pairs([[0.9, 0.1], [0.9, 0.1]], [[0.1, 0.9], [np.nan, 0.5]])], SIDE)
    assert [each.apart for each in found.disagreements] == [None, pytest.approx(0.8)]
    assert found.disagreements[0].canary == [None, 0.5]
    found.save(tmp_path)
    assert Agreement.from_dict(json.loads((tmp_path / "shadow.json").read_text())) == found


@pytest.mark.parametrize("answers", [["cat"], [[0.1, 0.2], [0.1]]])
def test_answers_that_can_not_be_measured_are_refused(answers):
    with pytest.raises(SettingsInvalid, match="compare them by label"):
        agreement([pairs(answers, answers)], SIDE)
