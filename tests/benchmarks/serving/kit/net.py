"""What all peers serve the model with: the same session, rows in, one number a row out.

Runs in the peers' environments; only NumPy and ONNX Runtime are sure to be there.
"""

import os

import numpy as np
import onnxruntime

PORT = int(os.environ["NET_PORT"])
BATCH_ROWS = int(os.environ["NET_BATCH_ROWS"])
LATENCY_MS = float(os.environ["NET_LATENCY_MS"])
DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class Net:
    """One intra-op thread and no spinning, as ours."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(os.environ["NET"], options, providers=providers)
        self.inputs = {node.name: DTYPES[node.type] for node in self.session.get_inputs()}

    def run(self, rows: list[dict]) -> list[float]:
        """The model's numbers for rows of {input: list}; shorter lists are filled up with zeros."""
        feeds = {name: stacked([row[name] for row in rows], dtype) for name, dtype in self.inputs.items()}
        return self.session.run(None, feeds)[0].tolist()


def stacked(values: list, dtype: type) -> np.ndarray:
    longest = max(map(len, values))
    if longest == min(map(len, values)):
        return np.array(values, dtype)
    tensor = np.zeros((len(values), longest), dtype)
    for row, value in zip(tensor, values, strict=True):
        row[: len(value)] = value
    return tensor
