"""A model of Triton's Python backend: the requests of a batch run as one."""

import os
import sys

sys.path[:0] = os.environ["PYTHONPATH"].split(":")  # the stub leaves it out

import numpy as np  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402
from net import Net  # noqa: E402


class TritonPythonModel:
    def initialize(self, args) -> None:
        self.net = Net()

    def execute(self, requests):
        given = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        (values,) = self.net.session.run(None, {"x": np.concatenate(given)})
        answers, start = [], 0
        for rows in given:
            part = triton.Tensor("y", values[start : start + len(rows)])
            answers.append(triton.InferenceResponse([part]))
            start += len(rows)
        return answers
