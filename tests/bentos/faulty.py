"""Models that fail, or take long, by what one row holds, though the contract lets it pass."""

from pathlib import Path

import numpy as np

from bentos.contract import Contract, Field
from bentos.manifest import MODEL_FILE, Manifest, Plan, sha256

CONTRACT = Contract(
    (Field("code", "int64"), Field("value", "float32")),
    (Field("score", "float32"),),
)
GOOD, RAISES = {"code": 3, "value": 4.0}, {"code": 99, "value": 4.0}
NOT_A_NUMBER, LOST = {"code": 3, "value": -1.0}, {"code": 3, "value": 777.0}
TABLE = np.arange(10, dtype=np.float32)


def score(row: dict) -> float:
    """What the model says of a good row."""
    return float(np.log(np.float32(row["value"])) + TABLE[row["code"]])


def save_model(path: Path) -> Path:
    """score = log(value) + TABLE[code], without the rows whose value is 777."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Gather", ["table", "code"], ["entry"]),
        helper.make_node("Log", ["value"], ["log"]),
        helper.make_node("Add", ["log", "entry"], ["sum"]),
        helper.make_node("Equal", ["value", "lost"], ["is lost"]),
        helper.make_node("Not", ["is lost"], ["is kept"]),
        helper.make_node("Compress", ["sum", "is kept"], ["score"], axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        "faulty",
        [
            helper.make_tensor_value_info("code", TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, ["rows"]),
        ],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["kept"])],
        [
            numpy_helper.from_array(TABLE, "table"),
            numpy_helper.from_array(np.array(777, np.float32), "lost"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def packed(folder: Path, plan: Plan | None = None) -> Manifest:
    """The model and its manifest, written into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model = save_model(folder / MODEL_FILE)
    manifest = Manifest("faulty", "7", "v7-faulty", "fp32", sha256(model), CONTRACT, plan or Plan())
    manifest.save(folder)
    return manifest


BUSY = Contract(
    (Field("turns", "int64", minimum=0, maximum=10_000_000), Field("value", "float32")),
    (Field("score", "float32"),),
)
A_MILLISECOND = 1500
"""Turns: more or less."""
BUSY_GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
g (int64[rows] turns, float[rows] value) => (float[rows] score) {
    most = ReduceMax<keepdims = 0>(turns)
    go = Constant<value = bool {1}>()
    start = Constant<value = int64 {0}>()
    spun = Loop(most, go, start) <body = spin (int64 turn, bool going, int64 sum) => (bool on, int64 next) {
        on = Identity(going)
        next = Add(sum, turn)
    }>
    nothing = Sub(spun, spun)
    zero = Cast<to = 1>(nothing)
    doubled = Add(value, value)
    score = Add(doubled, zero)
}
"""


def busy_packed(folder: Path, plan: Plan | None = None) -> Manifest:
    """score = 2 * value, after as many turns as the row with the most of them wants."""
    from onnx import parser, save

    folder.mkdir(parents=True, exist_ok=True)
    save(parser.parse_model(BUSY_GRAPH), folder / MODEL_FILE)
    manifest = Manifest("busy", "1", "v1-busy", "fp32", sha256(folder / MODEL_FILE), BUSY, plan or Plan())
    manifest.save(folder)
    return manifest
