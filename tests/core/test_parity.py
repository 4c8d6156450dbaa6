"""A file that answers otherwise than its source is found out, at whatever length it does."""

from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from bentos.contract import Contract, Field
from bentos.engines.engine import Engine
from pipelines.core.parity import judge_parity, source_model
from pipelines.core.program import ShapeRefused

ROWS = Contract((Field("x", "float32"),), (Field("y", "float32"),))
TEXTS = Contract(
    (Field("ids", "int64", (-1, -1)), Field("mask", "int64", (-1, -1)), Field("bias", "float32", (-1, 3))),
    (Field("y", "float32"), Field("count", "int64")),
)


def texts(rows: int = 20, length: int = 9) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(1, 50, (rows, length))
    return {"ids": ids, "mask": np.ones_like(ids), "bias": np.ones((rows, 3), np.float32)}


@dataclass
class Sums:
    """The sum of a row, off by `error` at one batch or text length; shorter than `shortest` is refused."""

    error: float = 0
    rows: int = 0
    length: int = 0
    shortest: int = 1
    miscount: int = 0

    def run(self, feeds):
        first = next(iter(feeds.values()))
        sums = first.reshape(len(first), -1).sum(1).astype(np.float32)
        length = first.shape[1] if first.ndim > 1 else 0
        if length and length < self.shortest:
            raise ShapeRefused(f"Guard failed: ids.size()[1] >= {self.shortest}")
        if "mask" in feeds:
            assert feeds["mask"].shape == first.shape and feeds["bias"].shape[1] == 3
        off = self.error if len(first) == self.rows or length == self.length > 0 else 0
        return {"y": sums + np.float32(off), "count": np.full(len(first), length + self.miscount)}


def judged(engine, source, feeds, contract, tolerance: float = 0.01):
    return judge_parity(engine, source, feeds, contract, tolerance, "digest")


@pytest.mark.parametrize("rows", [1, 2, 7, 9])
@pytest.mark.parametrize("error", [0.25, np.nan, np.inf], ids=["off", "NaN", "infinite"])
def test_a_difference_at_any_batch_length_fails(rows, error):
    x = np.linspace(0, 1, 9, dtype=np.float32)
    verdict = judged(Sums(error, rows=rows), Sums(), {"x": x}, ROWS)
    at = {1: "1 row", 9: "all 9 rows"}.get(rows, f"{rows} rows")
    assert verdict.outcome == "fail" and verdict.subject == "digest"
    if error == 0.25:
        assert verdict.reasons == (
            f"y differs from the source model by up to 0.25, more than 0.01, with {at}",
        )
        assert verdict.numbers == {"rows": 9, "y": pytest.approx(0.25)}
    else:
        assert verdict.reasons == (f"y is NaN or infinite on one side only, with {at}",)
        assert verdict.numbers["y"] is None


@pytest.mark.parametrize("length", [1, 2, 7, 9])
def test_a_difference_at_any_length_of_a_text_fails(length):
    verdict = judged(Sums(0.9, length=length), Sums(), texts(), TEXTS, tolerance=0.001)
    assert verdict.outcome == "fail" and verdict.reasons[0].startswith(
        "y differs from the source model by up to"
    )


def test_a_pass_says_how_far_off_and_what_was_tried():
    verdict = judged(Sums(), Sums(), texts(100), TEXTS)
    assert verdict.reasons == (
        "differs from the source model by at most 0, with 1 row, 2 rows, 7 rows, length 1 of ids, "
        "length 2 of ids, length 7 of ids, all 100 rows "
        "(0.01 is allowed, of its size where an answer exceeds 1)",
    )
    assert verdict.numbers == {"rows": 100, "y": 0, "count": 0}


def test_lengths_that_the_source_refuses_are_not_tried():
    verdict = judged(Sums(0.9, length=2), Sums(shortest=3), texts(), TEXTS)
    assert verdict.passed and "length 2" not in verdict.why and "length 7" in verdict.why


def test_a_source_that_refuses_everything_proves_nothing():
    verdict = judged(Sums(), Sums(shortest=99), texts(), TEXTS)
    assert verdict.reasons == ("the source model refuses all that was tried, or answers it with NaN",)


def test_floats_may_differ_in_proportion_and_integers_not_at_all():
    x = {"x": np.float32([1000, 2000])}
    assert judged(Sums(5, rows=2), Sums(), x, ROWS).passed
    assert not judged(Sums(50, rows=2), Sums(), x, ROWS).passed
    verdict = judged(Sums(miscount=1), Sums(), texts(), TEXTS, tolerance=2)
    assert verdict.why == "count differs from the source model by up to 1, more than 0, with length 7 of ids"


def test_nan_on_both_sides_is_alike():
    x = {"x": np.float32([1, np.nan, 3])}
    assert judged(Sums(), Sums(), x, ROWS).passed


def test_a_file_that_fails_at_a_length_or_answers_in_another_shape_fails(tmp_path):
    """Both have a dynamic signature and were exported from two rows."""
    x = {"x": np.ones(9, np.float32)}
    fixed = onnx_file(tmp_path / "fixed.onnx", "at = Constant<value_ints = [2]>() y = Reshape(x, at)")
    assert judged(fixed, Sums(), x, ROWS).why.startswith("the ONNX file fails with 1 row: [ONNXRuntimeError]")
    single = onnx_file(tmp_path / "single.onnx", "at = Constant<value_ints = [2]>() y = Expand(x, at)")
    assert judged(single, Sums(), x, ROWS).why.startswith(
        "the ONNX file fails with 1 row: The model's output y"
    )
    source = source_model("onnx", tmp_path / "fixed.onnx", ROWS)
    assert judged(fixed, source, x, ROWS).why.startswith(
        "the source model fails with 1 row: [ONNXRuntimeError]"
    )


def onnx_file(path, nodes: str) -> Engine:
    head = '<ir_version: 10, opset_import: ["" : 20]> g (float[rows] x) => (float[rows] y)'
    onnx.save(onnx.parser.parse_model(f"{head} {{{nodes}}}"), path)
    return Engine(path, ROWS)
