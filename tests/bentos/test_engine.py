"""The session: it runs the contract's model only, and passes on only answers that can be right."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from bentos.contract import Contract, Field, encode
from bentos.engine import ContractMismatch, Engine, ModelOutputInvalid, ProviderMissing
from bentos.schema import columns, predictions
from tests.bentos.tiny import CONTRACT, ROW, save_model


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "model.onnx")


def sigmoid(logit):
    return 1 / (1 + np.exp(-logit))


def cuda_is_here() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def test_answers_by_output_name(model):
    answers = predictions(Engine(model, CONTRACT).predict(columns(CONTRACT, [ROW, {**ROW, "wind": 10.0}])))
    # carrier AA is code 2 and origin JFK code 1; null wind counts 0 in this model
    assert [row["probability"] for row in answers] == pytest.approx(
        [sigmoid((2 + 1 + 7 + 3.5) / 64), sigmoid((2 + 1 + 7 + 3.5 + 10) / 64)]
    )


def test_a_row_is_answered_alike_alone_and_in_a_batch(model):
    engine = Engine(model, CONTRACT)
    rows = [{**ROW, "hour": hour} for hour in range(24)]
    together = engine.predict(columns(CONTRACT, rows))["probability"]
    alone = [engine.predict(columns(CONTRACT, [row]))["probability"][0] for row in rows]
    assert together.tolist() == alone


def test_warm_up_needs_no_data(model):
    Engine(model, CONTRACT).warm_up((1, 8))


def test_texts_of_different_length_share_a_batch(tmp_path):
    from onnx import parser, save

    head = '<ir_version: 10, opset_import: ["" : 20]> g (int64[rows, tokens] ids) => (int64[rows] total)'
    nodes = "at = Constant<value_ints = [1]>() total = ReduceSum<keepdims = 0>(ids, at)"
    save(parser.parse_model(f"{head} {{{nodes}}}"), tmp_path / "m")
    contract = Contract((Field("ids", "int64", (-1, -1)),), (Field("total", "int64"),))
    engine = Engine(tmp_path / "m", contract)
    engine.warm_up((1, 8))
    rows = [{"ids": [1, 2, 3]}, {"ids": [4]}]
    assert engine.predict(columns(contract, rows))["total"].tolist() == [6, 4]


@pytest.mark.parametrize(
    ("contract", "names"),
    [
        pytest.param(replace(CONTRACT, inputs=CONTRACT.inputs[:-1]), "inputs.*wind", id="an input less"),
        pytest.param(
            replace(CONTRACT, inputs=(Field("carrier", "int32"), *CONTRACT.inputs[1:])),
            "carrier.*int32",
            id="another dtype",
        ),
        pytest.param(replace(CONTRACT, outputs=(Field("score", "float32"),)), "score", id="another output"),
        pytest.param(
            replace(CONTRACT, outputs=(Field("probability", "float32", (-1, 1)),)),
            r"outputs.*'float32', 2",
            id="another rank",
        ),
    ],
)
def test_refuses_a_model_of_another_contract(model, contract, names):
    with pytest.raises(ContractMismatch, match=names):
        Engine(model, contract)


def test_refuses_answers_that_are_not_finite(tmp_path):
    engine = Engine(save_model(tmp_path / "nan.onnx", constant=float("nan")), CONTRACT)
    engine.warm_up((1,))
    with pytest.raises(ModelOutputInvalid, match="probability is not finite"):
        engine.predict(columns(CONTRACT, [ROW]))


def test_refuses_a_wrong_number_of_rows(tmp_path):
    from onnx import TensorProto, helper, save

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"]) for name in ("x", "y")]
    twice = helper.make_graph([helper.make_node("Concat", ["x", "x"], ["y"], axis=0)], "twice", *zip(tensors))
    save(helper.make_model(twice, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m")
    contract = Contract((Field("x", "float32"),), (Field("y", "float32"),))
    with pytest.raises(ModelOutputInvalid, match=r"shape \(6,\) for 3 rows"):
        Engine(tmp_path / "m", contract).run(encode(contract, {"x": np.ones(3)}))


def test_never_falls_back_from_an_accelerator(model):
    if cuda_is_here():
        pytest.skip("a GPU is here, so there is no missing provider to refuse")
    with pytest.raises(ProviderMissing, match="CUDAExecutionProvider"):
        Engine(model, CONTRACT, providers=("CUDAExecutionProvider",))


@pytest.mark.gpu
def test_runs_every_node_on_cuda(model):
    if not cuda_is_here():
        pytest.skip("needs an NVIDIA GPU and onnxruntime-gpu")
    answers = [
        Engine(model, CONTRACT, providers=(provider,)).predict(columns(CONTRACT, [ROW]))["probability"]
        for provider in ("CPUExecutionProvider", "CUDAExecutionProvider")
    ]
    np.testing.assert_allclose(*answers, rtol=1e-5)


def test_imports_nothing_heavy():
    heavy = {"torch", "mlflow", "dagster", "pandas", "bentoml", "onnxruntime", "pydantic"}
    asks = f"import sys, bentos.engine; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
