"""The file that rungs are made from is ready to be rewritten, and calibration is read as a stream."""

import pytest

from pipelines.core.activations import answer_sqnr_db
from pipelines.core.errors import RungImpossible
from pipelines.core.quantize import calibration_reader, prepared, weighted_nodes
from pipelines.core.recipe import Recipe
from pipelines.core.rungs import load_rung
from tests.core.nets import BATCH, handmade, rows, save


def test_a_prepared_file_has_names_initializers_and_a_late_opset(tmp_path):
    import onnx

    source, target = handmade(tmp_path / "source.onnx"), tmp_path / "rung" / "model.onnx"
    target.parent.mkdir()
    before = source.read_bytes()
    with prepared(source, target) as path:
        model = onnx.load(path)
        assert weighted_nodes(path, "int8") == ["MatMul.0"]
    assert "Mul" not in {node.op_type for node in model.graph.node}
    assert model.opset_import[0].version >= 13 and source.read_bytes() == before
    assert list(target.parent.iterdir()) == []


def test_nodes_of_one_name_are_told_apart(tmp_path):
    import onnx

    source = handmade(tmp_path / "source.onnx")
    model = onnx.load(source)
    for node in model.graph.node:
        node.name = "same"
    onnx.save(model, source)
    with prepared(source, tmp_path / "model.onnx") as path:
        names = [node.name for node in onnx.load(path).graph.node]
    assert len({*names}) == len(names)


@pytest.mark.parametrize("rung", ["int8_dynamic", "int8_static", "fp16"])
def test_the_factors_of_a_gemm_survive(tmp_path, rung):
    net = """
    <ir_version: 8, opset_import: ["": 20]> net (float[N, 2] x) => (float[N, 2] y)
    <float[2, 2] w = {1, 2, 3, -1}, float[2] b = {5, -7}>
    { h = Gemm<alpha=3.0, beta=0.5>(x, w, b)  y = Gemm<transB=1>(h, w, b) }
    """
    source, target = save(net, tmp_path / "source.onnx"), tmp_path / "model.onnx"
    load_rung(rung).build(Recipe(source, target, rows(2), lambda path: None))
    assert answer_sqnr_db(source, target, rows(2)()) > 30


def test_a_product_of_two_inputs_has_no_weight(tmp_path):
    net = """
    <ir_version: 8, opset_import: ["": 20]> net (float[N, 2, 2] x) => (float[N, 2, 2] y) { y = MatMul(x, x) }
    """
    with (
        prepared(save(net, tmp_path / "source.onnx"), tmp_path / "model.onnx") as path,
        pytest.raises(RungImpossible, match=r"leave the rung out of gate\.rungs"),
    ):
        weighted_nodes(path, "int8_static")


def test_batches_are_read_one_at_a_time_and_counted():
    drawn = []

    def stream():
        for batch in rows(2)():
            drawn.append(batch)
            yield batch

    reader = calibration_reader(stream())
    assert reader.get_next() is not None and len(drawn) == 1 and reader.rows == BATCH
    assert reader.get_next() and reader.get_next()
    assert reader.get_next() is None and reader.rows == 3 * BATCH
