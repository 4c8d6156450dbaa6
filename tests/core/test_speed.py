"""Speed against fp32, told by a clock that only runs while an engine does."""

import numpy as np
import pytest

from pipelines.core.speed import ROUNDS, Speed, compare_speed, load_speeds, overall, save_speeds


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Engine:
    """Takes `seconds` a run, and `per_row` for each row; notes the batch lengths and who ran."""

    def __init__(self, name, clock, seconds, per_row, order) -> None:
        self.name, self.clock, self.seconds, self.per_row, self.order = name, clock, seconds, per_row, order

    def run(self, feeds):
        rows = len(feeds["x"])
        self.order.append((self.name, rows))
        self.clock.seconds += self.seconds + rows * self.per_row
        return {"y": feeds["x"]}


@pytest.fixture
def timed():
    clock, order = Clock(), []
    engines = {
        "fp32": Engine("fp32", clock, 1e-3, 1e-3, order),
        "int8": Engine("int8", clock, 1e-3, 0.25e-3, order),
    }
    return compare_speed(engines, {"x": np.zeros(5)}, [1, 8], clock), order


def test_each_rung_is_timed_at_each_batch_size(timed):
    table, _ = timed
    assert table["fp32"][8].latency_us == pytest.approx(9000)
    assert table["fp32"][8].speedup == pytest.approx(1)
    assert table["int8"][1].speedup == pytest.approx(2 / 1.25)
    assert table["int8"][8].speedup == pytest.approx(3)
    assert table["int8"][8].low == pytest.approx(table["int8"][8].high)


def test_rungs_take_turns_with_more_rows_than_there_are(timed):
    _, order = timed
    assert {rows for _, rows in order} == {1, 8}
    turns = [run for at, run in enumerate(order) if at == 0 or order[at - 1] != run]
    # Both warm up; then each round turns the order about, so that who ran last runs on.
    assert turns == [(("fp32", "int8")[at % 2], rows) for rows in (1, 8) for at in range(ROUNDS + 2)]


def test_what_was_timed_is_kept_with_its_length(tmp_path):
    clock = Clock()
    engines = {"fp32": Engine("fp32", clock, 1e-3, 1e-3, [])}
    table = compare_speed(engines, {"x": np.zeros((5, 7))}, [2], clock, length=7)
    save_speeds(table, tmp_path / "speeds.json")
    assert load_speeds(tmp_path / "speeds.json") == table and table["fp32"][2].length == 7


def test_overall_is_the_geometric_mean():
    assert overall({1: Speed(1, 1, 1, 1), 8: Speed(1, 4, 4, 4)}) == pytest.approx(2)
