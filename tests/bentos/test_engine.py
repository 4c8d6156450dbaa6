"""The session: it runs the contract's model only, and passes on only answers that can be right."""

import gc
import subprocess
import sys
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

from bentos.contract import Field, encode
from bentos.engines.engine import ContractMismatch, Engine, ModelOutputInvalid, ProviderMissing, WarmUpFailed
from bentos.manifest import Plan
from bentos.schema import columns, predictions
from tests.bentos.graphs import save_graph, save_text
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


def test_warm_up_measures_the_ends(model):
    costs = Engine(model, CONTRACT).warm_up(Plan(max_batch_size=8))
    assert [(rows, length) for rows, length, _ in costs] == [(1, 0), (8, 0)]
    assert all(ms > 0 for *_, ms in costs)


def test_warm_up_runs_every_padded_size(model):
    costs = Engine(model, CONTRACT).warm_up(Plan(max_batch_size=8, padded_batch_sizes=(2, 4)))
    assert [cost[:2] for cost in costs] == [(2, 0), (4, 0), (8, 0)]


def test_texts_of_different_length_share_a_batch(tmp_path):
    engine = Engine(*save_text(tmp_path / "m"))
    costs = engine.warm_up(Plan(max_batch_size=8, lengths=(4, 16, 64)))
    assert [cost[:2] for cost in costs] == [(1, 4), (8, 4), (1, 32), (8, 32)]  # no text is longer than 32
    rows = [{"ids": [1, 2, 3], "mask": [1, 1, 1]}, {"ids": [4], "mask": [1]}]
    answers = engine.predict(columns(engine.contract, rows))
    assert answers["total"].tolist() == [6, 4]
    assert answers["each"].tolist() == [[1, 2, 3], [4, 0, 0]]


def test_a_model_that_cannot_run_the_largest_batch_does_not_start(tmp_path):
    """Reshape to 4 rows: the batch that the model was exported with became a constant."""
    engine = Engine(*save_graph(tmp_path / "m", "four = Constant<value_ints = [4]>() y = Reshape(x, four)"))
    with pytest.raises(WarmUpFailed, match=r"cannot run a batch of 16 rows, which the plan allows: ") as told:
        engine.warm_up(Plan(max_batch_size=16, padded_batch_sizes=(4, 16)))
    assert "\n" not in str(told.value)


def test_a_model_that_adds_rows_does_not_start(tmp_path):
    engine = Engine(*save_graph(tmp_path / "m", "y = Concat<axis = 0>(x, x)"))
    with pytest.raises(
        WarmUpFailed, match=r"1 rows.*: its output y has shape \(2,\) where \(1,\) is expected"
    ):
        engine.warm_up(Plan())


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
    engine.warm_up(Plan())
    with pytest.raises(ModelOutputInvalid, match="probability is not finite") as told:
        engine.predict(columns(CONTRACT, [ROW]))
    assert told.value.kind == "not_finite"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_finds_the_one_answer_that_is_not_finite(tmp_path, dtype):
    engine = Engine(*save_graph(tmp_path / "m", "y = Identity(x)", dtype))
    for bad in (np.nan, np.inf, -np.inf):
        for at in (0, 17, 999):
            x = np.full(1000, np.finfo(dtype).max, dtype)
            assert engine.run({"x": x})["y"].tolist() == x.tolist()  # their sum overflows, they are finite
            x[at] = bad
            with pytest.raises(ModelOutputInvalid):
                engine.run({"x": x})


def test_lets_nan_pass_where_the_contract_does(tmp_path):
    path, contract = save_graph(tmp_path / "m", "y = Identity(x)")
    may = replace(contract, outputs=(Field("y", "float32", nullable=True),))
    assert np.isnan(Engine(path, may).run({"x": np.full(2, np.nan, np.float32)})["y"]).all()


def test_refuses_a_wrong_number_of_rows(tmp_path):
    engine = Engine(*save_graph(tmp_path / "m", "y = Concat<axis = 0>(x, x)"))
    with pytest.raises(ModelOutputInvalid, match=r"shape \(6,\) for 3 rows") as told:
        engine.run(encode(engine.contract, {"x": np.ones(3)}))
    assert told.value.kind == "wrong_rows"


def test_many_threads_get_their_own_answers(model):
    engine, rng = Engine(model, CONTRACT), np.random.default_rng(0)
    rows = [{**ROW, "hour": int(hour)} for hour in rng.integers(0, 24, 64)]
    feeds = encode(CONTRACT, columns(CONTRACT, rows))
    batches = [
        {name: value[at : at + size] for name, value in feeds.items()}
        for at in range(32)
        for size in (1, 5, 32)
    ]
    expected = [engine.run(batch)["probability"].tolist() for batch in batches]
    wrong = []

    def work(start: int) -> None:
        for turn in range(start, start + 1000):
            at = turn % len(batches)
            if engine.run(batches[at])["probability"].tolist() != expected[at]:
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 96, 24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_closed_or_forgotten_engine_frees_its_session(model):
    for forget in (Engine.close, lambda engine: None):
        engine = Engine(model, CONTRACT)
        engine.predict(columns(CONTRACT, [ROW]))
        session = weakref.ref(engine._session)
        forget(engine)
        del engine
        gc.collect()
        assert session() is None


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
    asks = f"import sys, bentos.engines.engine; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
