"""The smallest model that has all that matters: a closed and an open category, a bounded number, a nullable
one, and a probability."""

from pathlib import Path

import numpy as np

from bentos.contract import Contract, Field
from bentos.manifest import MODEL_FILE, Manifest, Plan, sha256

CONTRACT = Contract(
    inputs=(
        Field("carrier", "int64", categories=("UA", "AA", "B6")),
        Field("origin", "int64", categories=("JFK", "EWR"), open=True),
        Field("hour", "int32", minimum=0, maximum=23),
        Field("dep delay", "float32", minimum=-100),
        Field("wind", "float32", nullable=True),
    ),
    outputs=(Field("probability", "float32"),),
)
ROW = {"carrier": "AA", "origin": "JFK", "hour": 7, "dep delay": 3.5, "wind": None}


def save_model(path: Path, contract: Contract = CONTRACT, constant: float = 0.0) -> Path:
    """probability = sigmoid((the sum of all inputs, NaN as 0) / 64 + constant)"""
    import onnx
    from onnx import TensorProto, helper

    nodes, summed = [], []
    for at, field in enumerate(contract.inputs):
        nodes += [
            helper.make_node("Cast", [field.name], [f"cast{at}"], to=TensorProto.FLOAT),
            helper.make_node("IsNaN", [f"cast{at}"], [f"nan{at}"]),
            helper.make_node("Where", [f"nan{at}", "zero", f"cast{at}"], [f"number{at}"]),
        ]
        summed.append(f"number{at}")
    nodes += [
        helper.make_node("Sum", summed, ["sum"]),
        helper.make_node("Div", ["sum", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "constant"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    numbers = {"zero": 0.0, "scale": 64.0, "constant": constant}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [_value(field) for field in contract.inputs],
        [_value(field) for field in contract.outputs],
        [onnx.numpy_helper.from_array(np.array(value, np.float32), name) for name, value in numbers.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def _value(field: Field):
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(field.dtype))
    return helper.make_tensor_value_info(field.name, kind, ["rows", *field.shape[1:]])


def packed(folder: Path, release_id: str = "v3-0a1b2c", plan: Plan | None = None) -> tuple[Path, Manifest]:
    """model.onnx in the folder, and the manifest that goes with it (not written)."""
    folder.mkdir(parents=True, exist_ok=True)
    model = save_model(folder / MODEL_FILE)
    plan = plan or Plan(max_batch_size=8)
    return model, Manifest("tiny", "3", release_id, "fp32", sha256(model), CONTRACT, plan)
