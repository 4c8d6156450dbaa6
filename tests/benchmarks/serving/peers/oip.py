"""The Open Inference Protocol's JSON, which MLServer and Triton speak."""

import json
from collections.abc import Mapping

from tests.benchmarks.harness.peers import Net


def path(net: Net) -> str:
    return f"/v2/models/{net.name}/infer"


def body(net: Net, row: Mapping) -> bytes:
    """One row, one tensor."""
    (field,) = net.contract.inputs
    values = row[field.name]
    tensor = {"name": field.name, "shape": [1, len(values)], "datatype": "FP32", "data": values}
    return json.dumps({"inputs": [tensor]}).encode()


def value(answer: bytes) -> float:
    return json.loads(answer)["outputs"][0]["data"][0]
