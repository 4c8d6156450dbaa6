"""A torch.export archive becomes one ONNX file that answers like it, at any batch length."""

import numpy as np
import pytest
import torch

from bentos.contract import Contract, Field
from bentos.engine import Engine
from pipelines.core.export import check_onnx, export_onnx, judge_parity, source_predictions

CONTRACT = Contract(
    inputs=(Field("code", "int64"), Field("age", "float32"), Field("pixels", "float32", (-1, 4))),
    outputs=(Field("probability", "float32"), Field("vector", "float32", (-1, 3))),
)


class Net(torch.nn.Module):
    """Two answers, as a tuple or a dict, by inputs that may not change places."""

    def __init__(self, answers_as: type) -> None:
        super().__init__()
        self.embedding, self.linear = torch.nn.Embedding(5, 2), torch.nn.Linear(7, 3)
        self.answers_as = answers_as

    def forward(self, code, age, pixels):
        vector = self.linear(torch.cat([self.embedding(code), age[:, None], pixels], 1))
        probability = torch.sigmoid(vector.sum(1))
        return {"probability": probability, "a": vector} if self.answers_as is dict else (probability, vector)


def feeds(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {  # not in the order of the contract: names decide
        "pixels": rng.normal(size=(rows, 4)).astype(np.float32),
        "age": rng.normal(size=rows).astype(np.float32),
        "code": rng.integers(0, 5, rows),
    }


@pytest.fixture(scope="module", params=[tuple, dict])
def exported(request, tmp_path_factory):
    """The archive and its ONNX file."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    example = feeds(2)
    rows = torch.export.Dim("rows")
    program = torch.export.export(
        Net(request.param).eval(),
        tuple(torch.from_numpy(example[field.name]) for field in CONTRACT.inputs),
        dynamic_shapes=({0: rows}, {0: rows}, {0: rows}),
    )
    torch.export.save(program, folder / "model.pt2")
    export_onnx("pt2", folder / "model.pt2", folder / "model.onnx", CONTRACT)
    return folder


def test_the_file_has_the_names_of_the_contract_and_no_second_file(exported):
    check_onnx(exported / "model.onnx")
    assert sorted(path.name for path in exported.iterdir()) == ["model.onnx", "model.pt2"]
    engine = Engine(exported / "model.onnx", CONTRACT)
    assert list(engine.run(feeds(3))) == ["probability", "vector"]


@pytest.mark.parametrize("rows", [8, 33])
def test_it_answers_like_its_source_at_any_batch_length(exported, rows):
    expected = source_predictions("pt2", exported / "model.pt2", CONTRACT, feeds(rows))
    assert {name: values.shape for name, values in expected.items()} == {
        "probability": (rows,),
        "vector": (rows, 3),
    }
    verdict = judge_parity(Engine(exported / "model.onnx", CONTRACT), expected, feeds(rows), 1e-5, "digest")
    assert verdict.passed and verdict.numbers["rows"] == rows and verdict.subject == "digest"


def test_an_onnx_file_is_taken_as_it_is(exported, tmp_path):
    export_onnx("onnx", exported / "model.onnx", tmp_path / "model.onnx", CONTRACT)
    assert (tmp_path / "model.onnx").read_bytes() == (exported / "model.onnx").read_bytes()
    found = source_predictions("onnx", tmp_path / "model.onnx", CONTRACT, feeds(4))
    expected = source_predictions("pt2", exported / "model.pt2", CONTRACT, feeds(4))
    np.testing.assert_allclose(found["vector"], expected["vector"], atol=1e-5)


class Off:
    """Stands for an ONNX file that answers otherwise at some batch lengths."""

    def __init__(self, expected, wrong_rows: int, error: float) -> None:
        self.expected, self.wrong_rows, self.error = expected, wrong_rows, error

    def run(self, feeds):
        rows = len(feeds["x"])
        return {"y": self.expected[:rows] + (self.error if rows == self.wrong_rows else 0)}


@pytest.mark.parametrize("wrong_rows", [1, 2, 7, 9])
@pytest.mark.parametrize("error", [0.25, np.nan], ids=["off", "NaN"])
def test_a_difference_at_any_length_fails(wrong_rows, error):
    expected = np.linspace(0, 1, 9)
    engine = Off(expected, wrong_rows, error)
    verdict = judge_parity(engine, {"y": expected}, {"x": expected}, 0.01, "digest")
    assert not verdict.passed
    if error == 0.25:
        assert verdict.reasons == ("y differs from the source model by up to 0.25, more than 0.01",)
