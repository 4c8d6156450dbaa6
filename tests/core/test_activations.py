"""The noise of quantization is found where it arises."""

import numpy as np
import pytest

from pipelines.core.activations import LIMIT_DB, answer_sqnr_db, node_sqnr_db, open_session
from pipelines.core.quantize import calibration_reader, prepared, weighted_nodes
from tests.core.nets import convolutions, mlp, outliers, rows, save


def quantize(exact, target, stream, nodes=()) -> None:
    from onnxruntime.quantization import QuantType, quantize_static

    quantize_static(
        exact, target, calibration_reader(stream()), activation_type=QuantType.QUInt8, nodes_to_quantize=nodes
    )


@pytest.mark.parametrize(("make", "size"), [(mlp, (8,)), (convolutions, (1, 8, 8))])
def test_each_node_is_measured_on_its_own(tmp_path, make, size):
    source, stream = make(tmp_path / "source.onnx"), rows(*size)
    with prepared(source, tmp_path / "model.onnx") as exact:
        nodes = weighted_nodes(exact, "int8_static")
        all_of_them, one = exact.parent / "all.onnx", exact.parent / "one.onnx"
        quantize(exact, all_of_them, stream)
        quantize(exact, one, stream, nodes[:1])
        noise = node_sqnr_db(exact, all_of_them, nodes, stream(), exact.parent)
        assert list(noise) == nodes and all(15 < noise_db < 60 for noise_db in noise.values())
        alone = node_sqnr_db(exact, one, nodes, stream(), exact.parent)
        assert list(alone) == nodes[:1] and abs(alone[nodes[0]] - noise[nodes[0]]) < 3


def test_the_noise_of_the_nodes_before_is_not_counted(tmp_path):
    source, stream = outliers(tmp_path / "source.onnx"), rows(8)
    with prepared(source, tmp_path / "model.onnx") as exact:
        quantize(exact, tmp_path / "quantized.onnx", stream)
        nodes = ["first", "ruined", "third"]
        noise = node_sqnr_db(exact, tmp_path / "quantized.onnx", nodes, stream(), exact.parent)
    assert min(noise, key=lambda name: noise[name]) == "ruined"
    assert noise["third"] > noise["ruined"] + 15


def scaled(path, factor: str):
    return save(
        f"""
        <ir_version: 8, opset_import: ["": 20]> net (float[N, 2] x) => (float[N, 2] y, float[N, 2] z)
        <float factor = {{{factor}}}> {{ y = Identity(x)  z = Mul(x, factor) }}
        """,
        path,
    )


@pytest.mark.parametrize(
    ("factor", "expected_db"), [("1", LIMIT_DB), ("1.1", 20.0), ("2", 0.0), ("3e38", -LIMIT_DB)]
)
def test_the_worst_output_tells(tmp_path, factor, expected_db):
    exact, other = scaled(tmp_path / "exact.onnx", "1"), scaled(tmp_path / "other.onnx", factor)
    assert answer_sqnr_db(exact, other, rows(2)()) == pytest.approx(expected_db, abs=1e-3)


def test_a_session_takes_any_batch(tmp_path):
    session = open_session(scaled(tmp_path / "exact.onnx", "2"))
    assert [len(session.run(["z"], {"x": np.ones((n, 2), np.float32)})[0]) for n in (1, 5)] == [1, 5]
