"""A release id for each combination of parts, and the comparison of a service with its model."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bentos.contract import Contract, Field
from pipelines.core.packing import REQUEST_ROWS, judge_answers, make_manifest, source_digest
from pipelines.core.spec import ServingSpec
from tests.bentos.tiny import CONTRACT

PARTS = {
    "name": "tiny",
    "version": "3",
    "rung": "fp32",
    "model_sha256": "a" * 64,
    "contract": CONTRACT,
    "serving": ServingSpec(),
    "source": "0123",
    "provenance": {"mlflow_model_id": "m-1"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"version": "4"},
        {"model_sha256": "b" * 64},
        {"contract": replace(CONTRACT, outputs=CONTRACT.inputs[:1])},
        {"serving": ServingSpec(max_batch_size=8)},
        {"serving": ServingSpec(threads=2)},
        {"source": "4567"},
    ],
    ids=["name", "version", "model", "contract", "batching", "threads", "code"],
)
def test_the_release_id_changes_with_each_part(change):
    before, after = make_manifest(**PARTS), make_manifest(**{**PARTS, **change})
    assert before.release_id != after.release_id
    assert before.release_id.startswith("v3-") and before == make_manifest(**PARTS)


def test_what_does_not_ship_does_not_change_the_release_id():
    other = make_manifest(**{**PARTS, "serving": ServingSpec(p99_ms=5), "provenance": {}})
    assert other.release_id == make_manifest(**PARTS).release_id


def test_the_code_of_the_service_has_a_digest(tmp_path):
    (tmp_path / "bentos").mkdir()
    for path in ("bentofile.yaml", "bentos/service.py", "bentos/requirements.txt"):
        (tmp_path / path).write_text("")
    found = {source_digest(tmp_path)}
    for path in ("bentofile.yaml", "bentos/service.py", "bentos/requirements.txt"):
        (tmp_path / path).write_text("changed")
        found.add(source_digest(tmp_path))
    assert len(found) == 4


def answers(error: float = 0.0, at: int = 150):
    """A service that doubles x, but is off by `error` in one row; `sizes` are those of its requests."""
    sizes = []

    def ask(some):
        sizes.append(len(some))
        return [{"y": 2 * row["x"] + (error if row["x"] == at else 0)} for row in some]

    rows = [{"x": float(x)} for x in range(200)]
    contract = Contract((), (Field("y", "int64"),))
    return judge_answers(ask, rows, {"y": 2 * np.arange(200)}, contract, 0.01, "tiny:v3"), sizes


def test_a_service_that_answers_alike_passes_in_requests_of_several_sizes():
    verdict, sizes = answers()
    assert verdict.passed and verdict.subject == "tiny:v3" and verdict.numbers["rows"] == 200
    assert set(sizes) & set(REQUEST_ROWS) == set(REQUEST_ROWS) and sum(sizes) == 200


@pytest.mark.parametrize("error", [0.5, np.nan])
def test_one_row_that_differs_fails(error):
    verdict, _ = answers(error)
    assert verdict.outcome == "fail" and "y differs from the ONNX file by up to" in verdict.why


def compared(answer, expected: np.ndarray, dtype: str, shape: tuple[int, ...]):
    """One output, named like a parameter within, of a service that answers each of four rows alike."""
    contract = Contract((), (Field("rows", dtype, shape), Field("subject", dtype, shape)))
    answers = {"rows": answer, "subject": answer}
    outputs = {name: np.array([expected] * 4, dtype) for name in answers}
    return judge_answers(lambda some: [answers] * len(some), [{}] * 4, outputs, contract, 0.01, "tiny:v3")


@pytest.mark.parametrize(
    ("answer", "expected", "dtype", "shape"),
    [
        pytest.param(True, True, "bool", (-1,), id="booleans"),
        pytest.param(7, 7, "uint8", (-1,), id="whole numbers"),
        pytest.param([0.1, 0.2], [0.1, 0.2], "float32", (-1, 2), id="vectors"),
        pytest.param([[1, 2]], [[1, 2], [0, 0], [0, 0]], "float32", (-1, -1, 2), id="less padding"),
    ],
)
def test_answers_of_any_type_and_shape_are_compared(answer, expected, dtype, shape):
    assert compared(answer, expected, dtype, shape).passed


@pytest.mark.parametrize(
    ("answer", "expected", "dtype", "shape"),
    [
        pytest.param(True, False, "bool", (-1,), id="booleans"),
        pytest.param(7, 8, "uint8", (-1,), id="whole numbers"),
        pytest.param([0.1, 0.2], [0.1, 0.3], "float32", (-1, 2), id="vectors"),
        pytest.param([0.1], [0.1, 0.2], "float32", (-1, 2), id="a vector that is too short"),
        pytest.param([1, 2, 3], [1, 2], "float32", (-1, -1), id="a list that is too long"),
        pytest.param(0.1, [0.1], "float32", (-1, -1), id="no list"),
    ],
)
def test_answers_of_another_value_or_shape_fail(answer, expected, dtype, shape):
    verdict = compared(answer, expected, dtype, shape)
    assert verdict.outcome == "fail" and "subject differs from the ONNX file by up to" in verdict.why
    assert json.loads(json.dumps(verdict.numbers, allow_nan=False))["subject"] != 0
