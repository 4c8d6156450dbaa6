"""Tensors of one shape at fixed addresses on a device, with the binding that runs the model on them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bentos.contract import Contract
from bentos.engines.shapes import Shape, neutral

NO_GRAPH = -1
"""As `gpu_graph_id`: neither capture nor replay in this run."""


class Buffers:
    """Holds one batch. `graph` numbers the CUDA graph that is captured here and replayed by `run`; None is
    none. Raises ONNX Runtime's errors where the model cannot run this shape."""

    def __init__(
        self, session: Any, contract: Contract, shape: Shape, device: str, graph: int | None = None
    ) -> None:
        self._session, self._binding = session, session.io_binding()
        self._options = None if graph is None else graph_options(graph)
        self._hosts = neutral(contract, shape)
        self._inputs = {name: _tensor(host.shape, host.dtype, device) for name, host in self._hosts.items()}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        self.load(self._hosts)
        for field in contract.outputs:
            self._binding.bind_output(field.name, device)
        session.run_with_iobinding(self._binding, None if graph is None else graph_options(NO_GRAPH))
        shapes = [value.shape() for value in self._binding.get_outputs()]
        for field, found in zip(contract.outputs, shapes, strict=True):
            self._binding.bind_ortvalue_output(field.name, _tensor(found, np.dtype(field.dtype), device))
        self.run()

    def load(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Copy a batch to the device, filled up to this shape."""
        for name, host in self._hosts.items():
            given = feeds[name]
            if given.dtype != host.dtype:  # `update_inplace` would take the bytes for what they are not
                raise TypeError(f"{name} holds {given.dtype} where {host.dtype} is expected")
            self._inputs[name].update_inplace(given if given.shape == host.shape else _filled(host, given))

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)

    def fetch(self) -> list[np.ndarray]:
        """Copies of the outputs; `OrtValue.numpy` would on the CPU be a view of what the next run changes."""
        return self._binding.copy_outputs_to_cpu()


def graph_options(graph: int) -> Any:
    """The options of a run that captures or replays this CUDA graph."""
    import onnxruntime

    options: Any = onnxruntime.RunOptions()  # pyright: ignore[reportAttributeAccessIssue]: made by pybind
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


def _tensor(shape: Any, dtype: np.dtype, device: str) -> Any:
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_shape_and_type(shape, dtype, device)


def _filled(host: np.ndarray, given: np.ndarray) -> np.ndarray:
    """`host` with `given` in its corner, its last row repeated and zeros behind every row."""
    rows = len(given)
    if given.shape[1:] != host.shape[1:]:
        host[:] = 0
    host[(slice(rows), *map(slice, given.shape[1:]))] = given
    host[rows:] = host[rows - 1]
    return host
