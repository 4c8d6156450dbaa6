"""What a load test means for other loads: headroom, replicas and prices, counted by hand."""

from dataclasses import replace

import pytest

from pipelines.core.capacity.outlook import cost_per_million, figures, headroom, replicas_for, scales
from pipelines.core.capacity.proof import Load, Trial


def load_of(knee_rps: float, price: float | None = 0.04) -> Load:
    return Load(50, 0.001, 200, 400, price, 60, 2.0, Trial("3", "3-ab", "fp32", 2, (), knee_rps, True))


@pytest.mark.parametrize(("knee_rps", "times"), [(800, 2), (400, 1), (100, 0.25), (0, 0)])
def test_headroom_is_what_the_knee_is_of_twice_the_expected_peak(knee_rps: float, times: float):
    load = load_of(knee_rps)
    assert headroom(load.candidate, load) == times


@pytest.mark.parametrize(
    ("rate_rps", "knee_rps", "replicas"),
    [(1, 400, 1), (200, 400, 1), (201, 400, 2), (400, 400, 2), (2000, 400, 10), (0.3, 0.2, 3), (10, 0, None)],
)
def test_each_replica_gets_at_most_half_of_its_knee(rate_rps: float, knee_rps: float, replicas: int | None):
    assert replicas_for(rate_rps, knee_rps) == replicas


def test_a_replica_can_be_planned_for_more_of_its_knee():
    assert [replicas_for(800, 400, share) for share in (0.5, 0.8, 1)] == [4, 3, 2]


def test_a_million_predictions_cost_what_the_cores_cost_meanwhile():
    assert cost_per_million(0.036, 4, 1000) == pytest.approx(0.04)  # 1000 s of 4 cores
    assert cost_per_million(0.036, 4, 0) is None
    assert cost_per_million(None, 4, 1000) is None
    assert cost_per_million(0.0, 4, 1000) == 0


def test_the_table_keeps_its_own_promises():
    load = load_of(knee_rps=500)
    table = scales(load.candidate, load)
    assert [scale.rate_rps for scale in table] == [200, 400, 1000, 2000]
    assert [(scale.replicas, scale.with_spare, scale.cores) for scale in table] == [
        (1, 2, 2), (2, 3, 4), (4, 5, 8), (8, 9, 16),
    ]  # fmt: skip
    assert all(scale.knee_share <= 0.5 for scale in table)
    assert [scale.per_hour for scale in table] == pytest.approx([0.08, 0.16, 0.32, 0.64])
    assert table[-1].per_million == pytest.approx(16 * 0.04 / (2000 * 3600) * 1e6)


def test_without_a_price_nothing_is_priced_and_without_a_knee_nothing_planned():
    load = load_of(knee_rps=500, price=None)
    assert {(scale.per_hour, scale.per_million) for scale in scales(load.candidate, load)} == {(None, None)}
    assert scales(load_of(0).candidate, load_of(0)) == []


def test_what_was_not_measured_is_not_compared():
    load = load_of(knee_rps=500)
    found = figures(load.candidate, load)
    assert found["knee, requests/s"] == 500 and found["– for each core of the plan"] == 250
    assert found["p99 at twice the peak, ms"] is None
    dead = replace(load.candidate, knee_rps=0.0)
    assert figures(dead, load)["price of a million at half the knee"] is None
