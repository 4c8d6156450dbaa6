"""Batch invariance of small engines that do, and do not, let a row see its mates."""

import numpy as np
import pytest

from bentos.contract import Contract, Field
from bentos.engines.engine import ModelOutputInvalid
from pipelines.core.invariance import batch_invariance

RNG = np.random.default_rng(0)
FEEDS = {
    "x": RNG.normal(size=(300, 4)).astype(np.float32),
    "share": RNG.random(300).astype(np.float32),
    "carrier": RNG.integers(0, 5, 300),
}
CONTRACT = Contract(
    (
        Field("x", "float32", (-1, 4)),
        Field("share", "float32", minimum=0.0, maximum=1.0),
        Field("carrier", "int64", categories=("AA", "B6", "DL", "UA"), open=True),
    ),
    (Field("y", "float32"),),
)


class Watched:
    """A logistic model whose rows don't see each other; it remembers the batches that it was given."""

    def __init__(self):
        self.batches = []

    def run(self, feeds):
        self.batches.append(feeds)
        return {"y": (1 + np.tanh(self.inputs(feeds["x"]).sum(axis=1, dtype=np.float64) / 2)) / 2}

    def inputs(self, x):
        return x


class Int8(Watched):
    """Rounds its inputs to 8 bits of the largest in the batch, as dynamic INT8 does."""

    def inputs(self, x):
        scale = np.abs(x).max() / 127
        return np.round(x / scale) * scale


class StaticInt8(Watched):
    """Rounds its inputs to 8 bits of a range that was set before."""

    def inputs(self, x):
        return np.round(x.clip(-4, 4) / 4 * 127) * 4 / 127


class Half(Watched):
    """Overflows where an input is larger than half precision holds, and says so."""

    def run(self, feeds):
        if np.abs(feeds["x"]).max() > 6e4:
            raise ModelOutputInvalid("y", "is not finite")
        return super().run(feeds)


def _invariance(engine, feeds=FEEDS, contract=CONTRACT, kind="probability"):
    return batch_invariance(engine, feeds, contract, "y", kind)


@pytest.mark.parametrize("engine", [Watched(), StaticInt8()])
def test_rows_that_do_not_see_each_other_do_not_move(engine):
    found = _invariance(engine)
    assert (found.worst, found.flips) == (pytest.approx(0, abs=1e-12), 0)


def test_a_scale_of_the_whole_batch_is_seen_and_outliers_make_it_worse():
    found = _invariance(Int8())
    assert 0.001 < found.among_random < 0.1 < found.among_outliers == found.worst
    assert found.flips > 10


def test_rows_are_scored_alone_among_63_mates_and_with_one_outlier_up_and_down():
    engine = Watched()
    _invariance(engine)
    sizes = [len(batch["x"]) for batch in engine.batches]
    assert sizes[:260] == [1] * 256 + [64] * 4
    assert sizes[260:] == [1, 64, 64, 64, 64, 5] * 2


def test_outliers_are_as_extreme_as_the_contract_lets_pass():
    engine = Watched()
    _invariance(engine)
    farthest = 20 * np.abs(FEEDS["x"]).max()
    for batch, sign, share in ((engine.batches[261], 1, 1.0), (engine.batches[267], -1, 0.0)):
        assert batch["x"][-1] == pytest.approx(np.full(4, sign * farthest))
        assert (batch["share"][-1], batch["carrier"][-1]) == (share, FEEDS["carrier"][0])
        assert np.abs(batch["x"][:-1]).max() * 20 <= farthest
        assert batch["x"].dtype == np.float32


def test_bounds_keep_outliers_in():
    bounded = Contract((Field("x", "float32", (-1, 4), minimum=-4, maximum=4),), CONTRACT.outputs)
    found = _invariance(Int8(), {"x": FEEDS["x"]}, bounded)
    assert found.among_outliers < 0.1


def test_an_outlier_that_cannot_be_answered_comes_closer():
    feeds = {**FEEDS, "x": FEEDS["x"] * np.float32(1000)}
    engine = Half()
    _invariance(engine, feeds)
    assert max(np.abs(batch["x"]).max() for batch in engine.batches) == pytest.approx(
        10 * np.abs(feeds["x"]).max()
    )


def test_movement_is_measured_by_what_the_output_is():
    moved = {kind: _invariance(Int8(), kind=kind) for kind in ("probability", "value", "embedding")}
    assert moved["value"].worst > moved["probability"].worst > 0
    assert moved["value"].flips == moved["embedding"].flips == 0


@pytest.mark.parametrize("rows", [1, 40, 64])
def test_few_rows_will_do(rows):
    assert _invariance(Watched(), {name: values[:rows] for name, values in FEEDS.items()}).worst < 1e-12


def test_integers_alone_have_no_outliers():
    feeds, contract = {"x": np.arange(100).reshape(50, 2)}, Contract((Field("x", "int64", (-1, 2)),), ())
    engine = Watched()
    _invariance(engine, feeds, contract)
    assert max(batch["x"].max() for batch in engine.batches) == 99
