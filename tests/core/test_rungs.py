"""Each rung is one file that loads, answers about like fp32 and comes out the same each time."""

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bentos.manifest import sha256
from pipelines.core.activations import answer_sqnr_db, open_session
from pipelines.core.errors import RungImpossible
from pipelines.core.evaluate import Tensors
from pipelines.core.recipe import Recipe
from pipelines.core.rungs import load_rung
from tests.core.nets import BATCH, NETS, outliers, rows, save, sequences

LEAST_DB = {"fp32": 100, "fp16": 50, "int8_dynamic": 20, "int8_static": 20}
INSERTED = {"int8_dynamic": {"MatMulInteger", "ConvInteger"}, "int8_static": {"QuantizeLinear"}}


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return {name: make(folder / f"{name}.onnx") for name, (make, _) in NETS.items()}


def build(rung: str, source: Path, target: Path, stream, objection: Callable = lambda path: None) -> dict:
    target.parent.mkdir(exist_ok=True)
    return dict(load_rung(rung).build(Recipe(source, target, stream, objection)))


def operators(path: Path) -> list[str]:
    import onnx

    return [node.op_type for node in onnx.load(path).graph.node]


def ends(path: Path) -> list:
    session = open_session(path)
    return [(end.name, end.type, end.shape) for end in (*session.get_inputs(), *session.get_outputs())]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rung", LEAST_DB)
def test_a_rung_loads_and_answers(sources, tmp_path, rung, net):
    import onnx

    source, stream = sources[net], NETS[net][1]
    before, target = sha256(source), tmp_path / "rung" / "model.onnx"
    notes = build(rung, source, target, stream)
    assert json.loads(json.dumps(notes)) == notes
    assert list(target.parent.iterdir()) == [target] and sha256(source) == before
    onnx.checker.check_model(target, full_check=True)
    assert answer_sqnr_db(source, target, stream()) >= LEAST_DB[rung]
    assert ends(target) == ends(source)
    assert rung not in INSERTED or INSERTED[rung] & {*operators(target)}
    for length in (1, 7):
        some = {name: tensor[:length] for name, tensor in next(iter(stream())).items()}
        assert len(open_session(target).run(None, some)[0]) == length


def test_building_again_gives_the_same_bytes(sources, tmp_path):
    script = """
import sys
from pathlib import Path
from tests.core.nets import NETS
from tests.core.test_rungs import LEAST_DB, build
for rung in LEAST_DB:
    for net in NETS:
        build(rung, Path(sys.argv[1]) / f"{net}.onnx", Path(sys.argv[2]) / f"{rung}_{net}.onnx", NETS[net][1])
"""
    folders = [tmp_path / seed for seed in ("1", "2")]
    for folder in folders:
        folder.mkdir()
        command = [sys.executable, "-c", script, str(sources["mlp"].parent), str(folder)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": folder.name})
    files = [{path.name: sha256(path) for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1] and len(files[0]) == len(LEAST_DB) * len(NETS)


def test_every_batch_of_the_calibration_is_used(sources, tmp_path):
    def wide() -> Iterator[Tensors]:
        *first, last = rows(8)()
        yield from first
        yield {"x": last["x"] * 100}

    narrow = build("int8_static", sources["mlp"], tmp_path / "narrow.onnx", rows(8))
    build("int8_static", sources["mlp"], tmp_path / "wide.onnx", wide)
    assert narrow["calibration_rows"] == 3 * BATCH
    exact = sources["mlp"]
    noise = [answer_sqnr_db(exact, tmp_path / name, rows(8)()) for name in ("narrow.onnx", "wide.onnx")]
    assert noise[0] > noise[1] + 20


def test_calibration_holds_one_batch_at_a_time(sources, tmp_path):
    living, most = [], []

    def watched() -> Iterator[Tensors]:
        for batch in rows(8, batches=12)():
            living.append(weakref.ref(batch["x"]))
            most.append(sum(reference() is not None for reference in living))
            yield batch

    assert (
        build("int8_static", sources["mlp"], tmp_path / "m.onnx", watched)["calibration_rows"] == 12 * BATCH
    )
    assert len(most) == 12 and max(most) <= 2


def test_products_of_activations_stay_in_float32(sources, tmp_path):
    notes = build("int8_static", sources["attention"], tmp_path / "model.onnx", sequences)
    assert notes["quantized_nodes"] == 4
    assert operators(tmp_path / "model.onnx").count("MatMul") == 6


def moves_more_than(limit_db: float, source: Path, stream) -> Callable[[Path], str | None]:
    def objection(path: Path) -> str | None:
        found = answer_sqnr_db(source, path, stream())
        return None if found >= limit_db else f"{found:.0f} dB"

    return objection


def test_the_node_that_quantization_ruins_is_left_out(tmp_path):
    source, stream = outliers(tmp_path / "source.onnx"), rows(8)
    ruined, saved = tmp_path / "ruined.onnx", tmp_path / "saved.onnx"
    build("int8_static", source, ruined, stream)
    notes = build("int8_static", source, saved, stream, moves_more_than(30, source, stream))
    assert notes["objection"] is None and notes["quantized_nodes"] == 2
    assert list(notes["excluded_nodes_db"]) == ["ruined"] and notes["excluded_nodes_db"]["ruined"] < 20
    assert answer_sqnr_db(source, ruined, stream()) < 15 < 30 <= answer_sqnr_db(source, saved, stream())


def test_where_nothing_helps_the_best_attempt_is_kept(tmp_path):
    source, tried = outliers(tmp_path / "source.onnx"), []

    def objection(path: Path) -> str:
        tried.append(path.name)
        return "never good enough"

    notes = build("int8_static", source, tmp_path / "rung" / "model.onnx", rows(8), objection)
    assert notes["objection"] == "never good enough" and len(tried) == 3
    assert "ruined" in notes["excluded_nodes_db"]
    assert answer_sqnr_db(source, tmp_path / "rung" / "model.onnx", rows(8)()) > 30


def test_a_conv_that_is_left_out_is_not_quantized_when_the_file_is_loaded(sources, tmp_path):
    import onnxruntime

    def objection(path: Path) -> str | None:
        return None if "without_1" in path.name else "without_1 is wanted"

    stream, target = rows(1, 8, 8), tmp_path / "model.onnx"
    notes = build("int8_static", sources["convolutions"], target, stream, objection)
    assert notes["quantized_nodes"] == 3
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    literal = onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"])
    feeds = dict(next(stream()))
    assert np.allclose(literal.run(None, feeds)[0], open_session(target).run(None, feeds)[0], atol=1e-3)


@pytest.mark.parametrize("rung", ["int8_dynamic", "int8_static"])
def test_without_constant_weights_there_is_no_int8(tmp_path, rung):
    net = '<ir_version: 8, opset_import: ["": 20]> net (float[N, 2] x) => (float[N, 2] y) { y = Tanh(x) }'
    with pytest.raises(RungImpossible, match=f"There is no {rung} of this model: no MatMul, Gemm or Conv"):
        build(rung, save(net, tmp_path / "s.onnx"), tmp_path / "rung" / "m.onnx", rows(2))
    assert list((tmp_path / "rung").iterdir()) == []


def weighted(path: Path, weight: str) -> Path:
    return save(
        f"""
        <ir_version: 8, opset_import: ["": 20]> net (float[N, 2] x) => (float[N, 1] y)
        <float[2, 1] heavy = {{{weight}, 1}}, float low = {{-1}}, float high = {{1}}>
        {{ lower = Max(x, low)  upper = Min(x, high)  h = Add(lower, upper)  y = MatMul(h, heavy) }}
        """,
        path,
    )


def test_a_weight_beyond_float16_is_named(tmp_path):
    source = weighted(tmp_path / "source.onnx", "70000")
    with pytest.raises(RungImpossible, match="heavy holds 70000, beyond 65504"):
        build("fp16", source, tmp_path / "model.onnx", rows(2))


@pytest.mark.parametrize("weight", ["3", "-3.4028235e38"])
def test_float16_takes_masks_and_values_with_two_readers_in_float32(tmp_path, weight):
    source, target = weighted(tmp_path / "source.onnx", weight), tmp_path / "model.onnx"
    notes = build("fp16", source, target, rows(2))
    assert notes["float32_operators"] == ["Max", "Min"]
    assert np.isfinite(open_session(target).run(None, {"x": np.zeros((3, 2), np.float32)})[0]).all()


def test_fp32_folds_constants_and_drops_what_is_never_read(sources, tmp_path):
    target = tmp_path / "model.onnx"
    notes = build("fp32", sources["handmade"], target, rows(2))
    assert notes == {"simplified": True, "nodes_exported": 4, "nodes": 2}
    assert operators(target) == ["MatMul", "Tanh"]


def garbled(model):
    model.graph.output[0].name = "z"
    del model.graph.node[:2]
    return model


def wrong(model):
    model.graph.node[-1].op_type = "Sigmoid"
    return model


def failing(model):
    raise KeyError("MatMul")


@pytest.mark.parametrize(("optimize", "why"), [
    (lambda model: model, "there is nothing to simplify"), (garbled, "changes the inputs or outputs"),
    (wrong, "simplifying changes answers"), (failing, "KeyError: 'MatMul'"),
])  # fmt: skip
def test_fp32_is_a_copy_where_simplifying_does_not_hold_up(sources, tmp_path, monkeypatch, optimize, why):
    import copy

    monkeypatch.setattr("onnxscript.optimizer.optimize", lambda model: optimize(copy.deepcopy(model)))
    source, target = sources["handmade"], tmp_path / "rung" / "model.onnx"
    notes = build("fp32", source, target, rows(2))
    assert not notes["simplified"] and why in notes["why"]
    assert target.read_bytes() == source.read_bytes() and list(target.parent.iterdir()) == [target]
