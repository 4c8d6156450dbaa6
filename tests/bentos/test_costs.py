"""Predicted costs: plausible whatever is measured, and corrected by what is seen."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.batching.costs import Costs

ROWS, LENGTHS = st.integers(1, 300), st.integers(0, 600)
TABLE = st.lists(
    st.tuples(st.integers(1, 128), st.sampled_from((0, 16, 64, 512)), st.floats(0.001, 1e4)), max_size=12
)
SEEN = st.lists(st.tuples(ROWS, LENGTHS, st.floats(0, 1e3)), max_size=20)


def test_knows_what_was_measured_and_draws_lines_between():
    costs = Costs([(1, 0, 1.0), (8, 0, 2.4), (32, 0, 4.8)])
    assert [costs.seconds(rows) * 1000 for rows in (1, 8, 32)] == pytest.approx([1, 2.4, 4.8])
    assert costs.seconds(4) * 1000 == pytest.approx(1.6)
    assert costs.seconds(64) * 1000 == pytest.approx(8.0)


def test_draws_lines_between_lengths_too():
    costs = Costs([(rows, length, rows * length / 10) for rows in (1, 8) for length in (16, 64)])
    assert costs.seconds(8, 40) * 1000 == pytest.approx(32)
    assert costs.seconds(8, 128) * 1000 == pytest.approx(102.4)
    assert costs.seconds(8, 1) == costs.seconds(8, 16)


def test_two_measurements_of_one_cell_are_no_contradiction():
    assert Costs([(8, 0, 2.0), (8, 0, 3.0)]).seconds(8) > 0


@given(TABLE, SEEN)
def test_never_falls_with_rows_or_length_and_is_never_zero(table, seen):
    costs = Costs(table)
    for rows, length, seconds in seen:
        costs.observe(rows, length, seconds)
    for length in (0, 10, 16, 40, 64, 300, 600):
        found = [costs.seconds(rows, length) for rows in (1, 2, 3, 8, 31, 64, 100, 300)]
        assert found[0] > 0
        assert all(b >= a * (1 - 1e-9) for a, b in pairwise(found))
    for rows in (1, 5, 64, 200):
        found = [costs.seconds(rows, length) for length in (0, 10, 16, 40, 64, 300, 600)]
        assert all(b >= a * (1 - 1e-9) for a, b in pairwise(found))


def test_without_a_table_it_learns_from_what_it_sees():
    costs = Costs()
    assert 0 < costs.seconds(32) < 0.01
    costs.observe(1, 0, 0.005)
    assert costs.seconds(1) == costs.seconds(32) == pytest.approx(0.005)
    costs.observe(32, 0, 0.02)
    assert costs.seconds(32) == pytest.approx(0.02)
    assert costs.seconds(1) == pytest.approx(0.005)


def test_one_stall_moves_it_little():
    costs = Costs([(1, 0, 5.0), (32, 0, 5.0)])
    costs.observe(32, 0, 10.0)
    assert costs.seconds(32) < 0.006


def test_it_follows_a_machine_that_became_slower_or_faster():
    for factor in (3.0, 0.3):
        costs = Costs([(1, 0, 1.0), (32, 0, 4.0)])
        for _ in range(20):
            costs.observe(32, 0, 0.004 * factor)
        assert costs.seconds(32) == pytest.approx(0.004 * factor, rel=0.05)


def test_what_is_seen_of_one_size_tells_little_of_others():
    costs = Costs([(1, 0, 1.0), (32, 0, 10.0)])
    for _ in range(20):
        costs.observe(32, 0, 0.02)
    assert costs.seconds(1) == pytest.approx(0.001)
