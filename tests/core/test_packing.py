"""A release id for each combination of parts, and the comparison of a service with its model."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from bentos.contract import Contract, Field, Text
from bentos.manifest import Manifest, Plan, Slo
from pipelines.core.packing import (
    DERIVED,
    REQUEST_ROWS,
    judge_answers,
    length_buckets,
    make_manifest,
    slo_of,
    source_digest,
    wished_plan,
)
from pipelines.core.spec import ServingSpec
from tests.bentos.tiny import CONTRACT

PARTS = {
    "name": "tiny",
    "version": "3",
    "rung": "fp32",
    "model_sha256": "a" * 64,
    "contract": CONTRACT,
    "plan": Plan(),
    "slo": Slo(),
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
        {"plan": Plan(max_batch_size=8)},
        {"plan": Plan(lengths=(8, 16))},
        {"plan": Plan(fallback="default", default_answer={"probability": 0.5})},
        {"slo": Slo(p99_ms=5)},
        {"source": "4567"},
        {"files": {"tokenizer.json": "c" * 64}},
    ],
    ids=str,
)
def test_the_release_id_changes_with_each_part(change):
    before, after = make_manifest(**PARTS), make_manifest(**{**PARTS, **change})
    assert before.release_id != after.release_id
    assert before.release_id.startswith("v3-") and before == make_manifest(**PARTS)


def test_where_it_came_from_does_not_change_the_release_id():
    other = make_manifest(**{**PARTS, "provenance": {}})
    assert other.release_id == make_manifest(**PARTS).release_id


def test_what_was_measured_ships_and_makes_no_other_release():
    timed = make_manifest(**{**PARTS, "plan": Plan(costs=((1, 16, 0.05), (64, 16, 0.9)))})
    assert timed.plan.costs == ((1, 16, 0.05), (64, 16, 0.9))
    assert timed.release_id == make_manifest(**PARTS).release_id


def test_every_setting_of_the_service_is_in_its_manifest(tmp_path):
    settings = {
        "max_batch_size": 8, "padded_batch_sizes": [2, 8], "lengths": [3, 5], "max_latency_ms": 20,
        "max_queue_rows": 30, "max_request_rows": 40, "max_body_megabytes": 0.5, "threads": 2, "workers": 3,
        "replicas": 4, "device": "cuda", "cache_seconds": 5.0, "cache_entries": 6, "fallback": "cached",
        "breaker_failures": 7, "breaker_seconds": 8.0, "capture_share": 0.9, "drain_seconds": 10.0,
    }  # fmt: skip
    promise = {"p99_ms": 11.0, "max_error_rate": 0.12, "expected_peak_rps": 13.0}
    serving = ServingSpec(**settings, **promise)
    wished, fixed = wished_plan(serving, CONTRACT, longest=0)
    assert fixed == set(DERIVED)
    make_manifest(**{**PARTS, "plan": wished, "slo": slo_of(serving)}).save(tmp_path)
    plan, slo = asdict(Manifest.load(tmp_path).plan), asdict(Manifest.load(tmp_path).slo)
    told = {**settings, "padded_batch_sizes": (2, 8), "lengths": (3, 5), "max_body_bytes": 2**19}
    told |= {"costs": (), "default_answer": None}
    assert plan == {name: value for name, value in told.items() if name != "max_body_megabytes"}
    assert slo == promise


def test_what_the_settings_leave_open_is_free():
    wished, fixed = wished_plan(ServingSpec(threads=2), CONTRACT, longest=0)
    assert (wished, fixed) == (Plan(threads=2), {"threads"})
    assert wished_plan(ServingSpec(), CONTRACT, longest=0) == (Plan(), frozenset())
    assert slo_of(ServingSpec()) == Slo()


IDS = Field("ids", "int64", (-1, -1))


@pytest.mark.parametrize(
    ("longest", "contract", "buckets"),
    [
        pytest.param(0, Contract((Field("x", "float32"),), ()), (), id="no length"),
        pytest.param(3, Contract((IDS,), ()), (8,), id="short"),
        pytest.param(64, Contract((IDS,), ()), (8, 16, 32, 64), id="a power of two"),
        pytest.param(65, Contract((IDS,), ()), (8, 16, 32, 64, 128), id="one more"),
        pytest.param(65, Contract((replace(IDS, max_length=100),), ()), (8, 16, 32, 64, 100), id="a limit"),
        pytest.param(
            30, Contract((IDS,), (), Text("text", "tokenizer.json", 30, "ids")), (8, 16, 30), id="cut texts"
        ),
        pytest.param(4, Contract((replace(IDS, max_length=5),), ()), (5,), id="all short"),
    ],
)
def test_buckets_hold_the_rows_of_the_reference(longest, contract, buckets):
    assert length_buckets(longest, contract) == buckets


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


def test_no_request_has_more_rows_than_the_service_takes():
    sizes = []

    def ask(some):
        sizes.append(len(some))
        return [{"y": 1} for _ in some]

    contract = Contract((), (Field("y", "int64"),))
    assert judge_answers(ask, [{}] * 9, {"y": np.ones(9)}, contract, 0.01, "tiny:v3", 4).passed
    assert max(sizes) <= 4


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
