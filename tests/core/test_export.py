"""Whatever was registered becomes one ONNX file of the contract that answers like it, or is refused in a
sentence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import library

from bentos.contract import Contract, Field
from bentos.engines.engine import Engine
from pipelines.core.errors import ModelRefused
from pipelines.core.export import export_onnx
from pipelines.core.onnx_file import check_onnx
from pipelines.core.parity import judge_parity, source_model

ROWS, TOKENS = torch.export.Dim("rows"), torch.export.Dim("tokens", min=3)
X, Y = Field("x", "float32", (-1, 4)), Field("y", "float32", (-1, 4))


class Net(torch.nn.Module):
    """Its answers in any shape, by inputs that may not change places."""

    def __init__(self, answers) -> None:
        super().__init__()
        self.embedding, self.linear, self.answers = torch.nn.Embedding(5, 2), torch.nn.Linear(7, 3), answers

    def forward(self, code, age, pixels):
        vector = self.linear(torch.cat([self.embedding(code), age[:, None], pixels], 1))
        return self.answers(torch.sigmoid(vector.sum(1)), vector, code)


class Texts(torch.nn.Module):
    """A dict and keywords in, a Python number and None among them; dicts in a tuple in a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(9, 4)

    def forward(self, text, use=None, *, power, loud):
        tokens = self.embedding(text["ids"]) * text["mask"][..., None]
        mean = tokens.sum(1) / text["mask"].sum(1, keepdim=True)
        urgent = loud & (mean.sum(1) > 0)
        return {"mean": mean**power, "more": (tokens, {"urgent": urgent, "length": text["mask"].sum(1)})}


class Calls(torch.nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def saved(path: Path, net, args, dynamic, **kwargs) -> Path:
    torch.manual_seed(0)
    program = torch.export.export(net.eval(), args, kwargs or None, dynamic_shapes=dynamic)
    torch.export.save(program, path / "model.pt2")
    return path / "model.pt2"


def table(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "pixels": rng.normal(size=(rows, 4)).astype(np.float32),
        "age": rng.normal(size=rows).astype(np.float32),
        "code": rng.integers(0, 5, rows),
    }


def numbers(rows: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)


def renamed(field: Field, name: str) -> Field:
    return replace(field, name=name)


def saved_net(path: Path, answers) -> Path:
    torch.manual_seed(0)
    args = tuple(torch.from_numpy(table(2)[name]) for name in ("code", "age", "pixels"))
    return saved(path, Net(answers), args, ({0: ROWS}, {0: ROWS}, {0: ROWS}))


def calling(path: Path, function, rows=ROWS) -> Path:
    return saved(path, Calls(function), (torch.randn(2, 4),), ({0: rows},))


def exported(source: Path, contract: Contract, feeds, form: str = "pt2") -> Engine:
    """The session of the exported file, after it was found to answer like its source."""
    target = source.with_name("exported.onnx")
    export_onnx(form, source, target, contract)
    check_onnx(target)
    engine, expected = Engine(target, contract), source_model(form, source, contract)
    verdict = judge_parity(engine, expected, feeds, contract, 1e-5, "digest")
    assert verdict.passed, verdict.why
    return engine


def refusal(form: str, source: Path, contract: Contract) -> str:
    with pytest.raises(ModelRefused) as refused:
        export_onnx(form, source, source.with_name("exported.onnx"), contract)
    said = str(refused.value)
    assert said.startswith(f"The model version in {source.name} is refused: ") and "\n" not in said
    return said


INPUTS = (Field("code", "int64"), Field("age", "float32"), Field("pixels", "float32", (-1, 4)))
CHANCE, VECTOR = Field("chance", "float32"), Field("vector", "float32", (-1, 3))


@pytest.mark.parametrize(
    ("answers", "outputs"),
    [
        pytest.param(lambda p, v, c: (p, v), (CHANCE, VECTOR), id="a tuple, by position"),
        pytest.param(lambda p, v, c: {"p": p, "v": v}, (CHANCE, VECTOR), id="a dict, by position"),
        pytest.param(lambda p, v, c: {"vector": v, "chance": p}, (CHANCE, VECTOR), id="a dict, by name"),
        pytest.param(lambda p, v, c: [(v, {"b": p})], (VECTOR, CHANCE), id="nested, by position"),
        pytest.param(lambda p, v, c: p, (CHANCE,), id="one tensor"),
        pytest.param(
            lambda p, v, c: (p, p, c), (CHANCE, Field("again", "float32"), Field("same", "int64")),
            id="one tensor twice, and an input",
        ),
    ],
)  # fmt: skip
def test_answers_of_any_shape_get_the_names_of_the_contract(tmp_path, answers, outputs):
    engine = exported(saved_net(tmp_path, answers), Contract(INPUTS, outputs), table(9))
    assert list(engine.run(table(3))) == [field.name for field in outputs]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported.onnx", "model.pt2"]


def test_inputs_are_matched_by_name_whatever_their_order_and_by_position_else(tmp_path):
    source = saved_net(tmp_path, lambda p, v, c: p)
    exported(source, Contract(INPUTS[::-1], (CHANCE,)), table(9))
    mine = tuple(renamed(field, f"my {field.name}") for field in INPUTS)
    exported(source, Contract(mine, (CHANCE,)), {f"my {name}": values for name, values in table(9).items()})


def test_names_may_be_those_of_weights_and_of_values_within(tmp_path):
    """Else the graph would have two values of one name."""
    source = saved_net(tmp_path, lambda p, v, c: (p, v))
    inputs = tuple(map(renamed, INPUTS, ("linear", "embedding.weight", "unsqueeze")))
    outputs = (renamed(CHANCE, "embedding"), renamed(VECTOR, "linear.weight"))
    feeds = {new.name: table(9)[old.name] for new, old in zip(inputs, INPUTS, strict=True)}
    exported(source, Contract(inputs, outputs), feeds)


def test_names_may_be_those_of_values_in_a_branch(tmp_path):
    def branches(x):
        return torch.cond(x.sum() > 0, lambda x: torch.sin(x) + 1, lambda x: x * 2 - 1, (x,))

    source = calling(tmp_path, branches)
    exported(source, Contract((X,), (Y,)), {"x": numbers(9)})
    (branching,) = (node for node in onnx.load(tmp_path / "exported.onnx").graph.node if node.op_type == "If")
    within, other = (branch.g.node[0].output[0] for branch in branching.attribute)
    exported(source, Contract((renamed(X, within),), (renamed(Y, other),)), {within: numbers(9)})


def test_dicts_keywords_and_a_dynamic_length(tmp_path):
    example = {"ids": torch.ones(2, 5, dtype=torch.long), "mask": torch.ones(2, 5)}
    text = {0: ROWS, 1: TOKENS}
    dynamic = {"text": {"ids": text, "mask": text}, "use": None, "power": None, "loud": {0: ROWS}}
    source = saved(tmp_path, Texts(), (example, None), dynamic, power=2, loud=torch.tensor([True, False]))
    contract = Contract(
        (Field("loud", "bool"), Field("mask", "float32", (-1, -1)), Field("ids", "int64", (-1, -1))),
        (
            Field("mean", "float32", (-1, 4)),
            Field("tokens", "float32", (-1, -1, 4)),
            Field("urgent", "bool"),
            Field("length", "float32"),
        ),
    )
    rng = np.random.default_rng(0)
    mask = (np.arange(12) < rng.integers(1, 12, (20, 1))).astype(np.float32)
    feeds = {"ids": rng.integers(0, 9, (20, 12)), "mask": mask, "loud": rng.random(20) > 0.5}
    exported(source, contract, feeds)


def test_a_program_of_a_fixed_batch_is_refused(tmp_path):
    said = refusal("pt2", saved(tmp_path, Calls(torch.sin), (torch.randn(1, 4),), None), Contract((X,), (Y,)))
    assert "its input x is float32[1, 4] where its signature says float32[-1, 4]; export it again" in said


def test_another_number_of_inputs_or_outputs_is_refused(tmp_path):
    source = saved_net(tmp_path, lambda p, v, c: (p, v))
    few = Contract(INPUTS[:2], (CHANCE, VECTOR))
    assert "it has 3 inputs where its signature has 2 (code, age); log it again" in refusal(
        "pt2", source, few
    )
    few = Contract(INPUTS, (CHANCE,))
    assert "it has 2 outputs where its signature has 1 (chance)" in refusal("pt2", source, few)


def test_one_name_for_an_input_and_an_output_is_refused(tmp_path):
    said = refusal("pt2", calling(tmp_path, torch.sin), Contract((X,), (X,)))
    assert "x names both an input and an output" in said


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        pytest.param(lambda x: torch.linalg.svd(x[:, None])[1], "aten._linalg_svd.default", id="svd"),
        pytest.param(torch.lgamma, "prims.lgamma.default", id="an operator that was decomposed"),
        pytest.param(lambda x: x + torch.histc(x, 4), "aten.histc.default", id="arguments ONNX can't take"),
    ],
)
def test_an_operator_that_onnx_lacks_is_named_with_the_line_that_uses_it(tmp_path, function, operator):
    said = refusal("pt2", calling(tmp_path, function), Contract((X,), (Y,)))
    assert f"its operator {operator}, used at {__file__}:{line_of('return self.function(x)')}, can't" in said
    assert said.endswith("or export the model to ONNX yourself and log that with mlflow.onnx.log_model.")


def test_an_operator_of_the_users_own_is_named_with_the_line_that_uses_it(tmp_path):
    with library._scoped_library("mine", "DEF") as mine:
        mine.define("twist(Tensor x) -> Tensor")
        mine.impl("twist", torch.flipud, "CompositeExplicitAutograd")
        mine.impl("twist", torch.empty_like, "Meta")
        source = calling(tmp_path, lambda x: torch.ops.mine.twist(x))
    said = refusal("pt2", source, Contract((X,), (Y,)))
    assert (
        f"its operator mine.twist.default, used at {__file__}:{line_of('return self.function(x)')}, is"
        in said
    )


def test_weights_that_one_file_cannot_hold_are_refused(tmp_path):
    weights = torch.zeros(1).expand(2**29)  # 2 GiB to ONNX, four bytes here
    said = refusal("pt2", calling(tmp_path, lambda x: x + weights[:4]), Contract((X,), (Y,)))
    assert "its weights are 2.00 GiB, and one ONNX file ends at 2 GiB; register a smaller model" in said
    model = onnx.load(onnx_file(tmp_path / "model.onnx", "(float[rows, 4] x) => (float[rows, 4] y)"))
    model.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2**29])
    onnx.save(model, tmp_path / "model.onnx")
    said = refusal("onnx", tmp_path / "model.onnx", Contract((X,), (Y,)))
    assert "its weights are 2.00 GiB" in said


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_what_is_no_model_is_refused(tmp_path, form):
    (tmp_path / "model").write_text("no model")
    assert "can't read it" in refusal(form, tmp_path / "model", Contract((X,), (Y,)))


def test_an_onnx_file_is_copied_byte_for_byte(tmp_path):
    source = onnx_file(tmp_path / "model.onnx", "(float[rows, 4] x) => (float[rows, 4] y)")
    exported(source, Contract((X,), (Y,)), {"x": numbers(9)}, "onnx")
    assert source.read_bytes() == (tmp_path / "exported.onnx").read_bytes()


def test_external_data_is_taken_in(tmp_path):
    folder = tmp_path / "registered"
    folder.mkdir()
    source = onnx_file(
        folder / "model.onnx", "(float[rows, 4] x, float[4] w) => (float[rows, 4] y)", "y = Mul(x, w)"
    )
    model, weights = onnx.load(source), np.float32([1, 2, 3, 4])
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(model, source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (folder / "weights.bin").exists()
    export_onnx("onnx", source, tmp_path / "model.onnx", Contract((X,), (Y,)))
    found = Engine(tmp_path / "model.onnx", Contract((X,), (Y,))).run({"x": numbers(3)})["y"]
    np.testing.assert_array_equal(found, numbers(3) * weights)
    (folder / "weights.bin").unlink()
    assert "ONNX can't read it" in refusal("onnx", source, Contract((X,), (Y,)))


@pytest.mark.parametrize(
    ("signature", "nodes", "reason"),
    [
        pytest.param(
            "(float[1, 4] x) => (float[1, 4] y)", "y = Relu(x)",
            "its input x is float32[1, 4] where its signature says float32[-1, 4]; export it again",
            id="a fixed batch",
        ),
        pytest.param(
            "(float[rows, 5] x) => (float[rows, 5] y)", "y = Relu(x)",
            "its input x is float32[-1, 5] where its signature says float32[-1, 4]; correct",
            id="another length",
        ),
        pytest.param(
            "(float[rows] x) => (float[rows] y)", "y = Relu(x)", "its input x is float32[-1] where",
            id="another rank",
        ),
        pytest.param(
            "(double[rows, 4] x) => (double[rows, 4] y)", "y = Relu(x)",
            "its input x is float64[-1, 4] where",
            id="another dtype",
        ),
        pytest.param(
            "(float[rows, 4] z) => (float[rows, 4] y)", "y = Relu(z)",
            "its inputs are z where its signature has x",
            id="another name",
        ),
        pytest.param(
            "(float[rows, 4] x) => (seq(float[rows, 4]) y)", "y = SequenceConstruct(x)",
            "its output y is sequence[] where", id="a sequence",
        ),
        pytest.param(
            "(float[rows, 4] x) => (float[rows, 4] y)", "y = mine.Twist(x)", "ONNX Runtime can't load it",
            id="an operator of the user's own",
        ),
        pytest.param(
            "(float[rows, 4] x) => (float[rows, 4] y)", "y = Relu(lost)", "ONNX's full check fails",
            id="a value from nowhere",
        ),
    ],
)  # fmt: skip
def test_an_onnx_file_that_is_not_the_contracts_or_not_valid_is_refused(tmp_path, signature, nodes, reason):
    source = onnx_file(tmp_path / "model.onnx", signature, nodes)
    assert reason in refusal("onnx", source, Contract((X,), (Y,)))


def line_of(code: str) -> int:
    return next(
        at for at, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.strip() == code
    )


def onnx_file(path: Path, signature: str, nodes: str = "y = Relu(x)", weights: str = "") -> Path:
    opsets = 'opset_import: ["" : 20, "mine" : 1]'
    onnx.save(
        onnx.parser.parse_model(f"<ir_version: 10, {opsets}> g {signature} {weights} {{{nodes}}}"), path
    )
    return path
