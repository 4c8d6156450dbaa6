"""The models that are served: one number a row comes out. Made in code and kept in the cache."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bentos.contract import Contract, Field
from pipelines.core.export import export_onnx
from tests.benchmarks.harness.machine import cache
from tests.benchmarks.harness.peers import Net
from tests.zoo import load as load_specimen

SEED = 4
ROWS, TEXTS = 16, 256
LENGTHS = (16, 32, 64, 128)


def tiny(batch_rows: int = 32) -> Net:
    """8 numbers, one hidden layer of 16: a few microseconds, so that what is measured is the server."""
    return _vector("tiny", 8, _dense([8, 16, 1]), batch_rows)


def wide() -> Net:
    """768 numbers in one product: what is measured is how the numbers get in."""
    return _vector("wide", 768, _dense([768, 1]))


def heavy(batch_rows: int, latency_ms: float) -> Net:
    """Some milliseconds a row, in batches as alone: 128 tokens that pass layers of 384."""
    return _vector("heavy", 8, _tokens(tokens=128, width=384, layers=12), batch_rows, latency_ms)


def minilm(latency_ms: float, batch_rows: int) -> Net:
    """all-MiniLM-L6-v2 with its sentiment head, whose answer is all that goes out. The lengths are those of
    people's texts: most are short, few are long."""
    specimen = load_specimen("minilm", cache() / "zoo")
    file = _file("minilm")
    export_onnx(specimen.form, specimen.source, file, specimen.contract)
    model = onnx.load(file)
    del model.graph.output[1:]
    onnx.save(model, file)
    inputs = [replace(field, axes=("tokens",), max_length=LENGTHS[-1]) for field in specimen.contract.inputs]
    contract = Contract(tuple(inputs), specimen.contract.outputs[:1])
    return Net("minilm", file, contract, _texts(), batch_rows, latency_ms, LENGTHS)


def _texts() -> list[dict]:
    """Token ids and attention masks; which words they are costs nothing, how many is all that does."""
    rng = np.random.default_rng(SEED)
    lengths = np.clip(rng.lognormal(np.log(20), 0.8, TEXTS).astype(int), 4, LENGTHS[-1])
    words = [rng.integers(1000, 30_000, length).tolist() for length in lengths]
    return [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in words]


def _vector(name: str, width: int, parts: tuple, batch_rows: int = 64, latency_ms: float = 1000) -> Net:
    nodes, weights = parts
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows"])],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    file = _file(name)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)
    contract = Contract((Field("x", "float32", (-1, width)),), (Field("y", "float32"),))
    values = np.random.default_rng(SEED).normal(size=(ROWS, width)).astype(np.float32).round(4)
    rows = [{"x": [round(float(value), 4) for value in row]} for row in values]
    return Net(name, file, contract, rows, batch_rows, latency_ms)


def _file(name: str) -> Path:
    (folder := cache() / "nets").mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.onnx"


def _dense(widths: Sequence[int]) -> tuple[list, dict]:
    """Products with ReLU between them; the last is squeezed to one number a row."""
    rng = np.random.default_rng(SEED)
    weights = {
        f"w{at}": (rng.normal(size=pair) / np.sqrt(pair[0])).astype(np.float32)
        for at, pair in enumerate(pairwise(widths))
    }
    nodes, last = [], "x"
    for at, name in enumerate(weights):
        nodes.append(helper.make_node("MatMul", [last, name], [f"h{at}"]))
        nodes.append(helper.make_node("Relu", [f"h{at}"], [f"r{at}"]))
        last = f"r{at}"
    nodes[-1] = helper.make_node("Squeeze", [f"h{len(weights) - 1}", "axis"], ["y"])
    return nodes, {**weights, "axis": np.array([1])}


def _tokens(tokens: int, width: int, layers: int) -> tuple[list, dict]:
    """A row becomes `tokens` vectors, which all pass the same layers; their mean is the answer."""
    rng = np.random.default_rng(SEED)
    square = (rng.normal(size=(layers, width, width)) / np.sqrt(width)).astype(np.float32)
    spread = rng.normal(size=(8, tokens * width)).astype(np.float32)
    weights = {
        "spread": spread,
        "shape": np.array([-1, tokens, width]),
        "axes": np.array([1, 2]),
        **{f"w{at}": square[at] for at in range(layers)},
    }
    nodes = [
        helper.make_node("MatMul", ["x", "spread"], ["spreaded"]),
        helper.make_node("Reshape", ["spreaded", "shape"], ["h0"]),
    ]
    for at in range(layers):
        nodes.append(helper.make_node("MatMul", [f"h{at}", f"w{at}"], [f"m{at}"]))
        nodes.append(helper.make_node("Relu", [f"m{at}"], [f"h{at + 1}"]))
    nodes.append(helper.make_node("ReduceMean", [f"h{layers}", "axes"], ["y"], keepdims=0))
    return nodes, weights
