"""The ONNX Runtime session as it serves. The pipeline judges and scores with the same class, so what was
measured is what runs. Only NumPy and ONNX Runtime are imported, the latter when a session is opened.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bentos.contract import Contract, Field, encode
from bentos.engines.shapes import Shape, neutral, output_shapes, warm_up_shapes
from bentos.manifest import Cost, Plan

CPU = "CPUExecutionProvider"
PROVIDERS = {"cpu": (CPU,), "cuda": ("CUDAExecutionProvider",)}
"""What a device means. With cuda alone, a node that the GPU cannot run is an error, not a slow surprise."""
Provider = str | tuple[str, dict[str, str]]
"""The name of an execution provider, with its options where it has any."""
LOG_FATAL_ONLY = 4
"""All errors are raised; ONNX Runtime's own lines about them are no JSON and quote what a request held."""
REQUANTIZER = "WeightBiasQuantization"
"""An optimizer that quantizes, as the file is loaded, nodes that were left in float32 on purpose."""
LONG_RUN_MS = 1000.0
"""What the first run of a shape costs more than the others does not show in a run that takes longer."""


class ContractMismatch(RuntimeError):
    """The inputs or outputs of an ONNX file are not the contract's."""


class ProviderMissing(RuntimeError):
    """The wanted accelerator cannot run the model here; it never falls back to the CPU in silence."""


class WarmUpFailed(RuntimeError):
    """The model cannot answer a batch that the plan allows, so it must not serve."""

    def __init__(self, shape: Shape, reason: object) -> None:
        rows, length = shape
        size = f"{rows} rows of length {length}" if length else f"{rows} rows"
        said = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
        super().__init__(f"The model cannot run a batch of {size}, which the plan allows: {said}")


class ModelOutputInvalid(RuntimeError):
    """The model answered with the wrong number of rows, or with NaN or infinity; `kind` says which."""

    def __init__(
        self, output: str, reason: str, kind: Literal["not_finite", "wrong_rows"] = "not_finite"
    ) -> None:
        super().__init__(f"The model's output {output} {reason}.")
        self.kind = kind


class Engine:
    """One model file, loaded with the settings it is served with. Several threads may run it at once.

    One thread and no spinning: sessions share cores with their neighbours, and spinning threads burn a core
    while they wait. `providers` without the CPU means that every node must run on the accelerator.
    """

    overlap = 1
    """How many runs to have under way at once, so that the device need not wait for data."""

    def __init__(
        self, model: Path, contract: Contract, threads: int = 1, providers: Sequence[Provider] = (CPU,)
    ) -> None:
        self.contract = contract
        self._outputs = [field.name for field in contract.outputs]
        self._finite = [
            np.dtype(field.dtype).kind == "f" and not field.nullable for field in contract.outputs
        ]
        self._session: Any = _session(model, threads, providers)
        # The C++ session's own method: the Python one above it takes 2 µs to look for feeds of other devices
        # and for missing inputs, of which the first cannot be here and the C++ one tells the second as well.
        self._run: Any = self._session._sess.run
        _check_nodes("input", self._session.get_inputs(), contract.inputs)
        _check_nodes("output", self._session.get_outputs(), contract.outputs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model's outputs by name for encoded `feeds`. Raises ModelOutputInvalid, and ONNX Runtime's
        errors (`runtime_errors`) or RuntimeError where the model cannot run them."""
        rows = (len(next(iter(feeds.values()))),)
        values = self._values(feeds)
        for name, finite, value in zip(self._outputs, self._finite, values, strict=True):
            if value.shape[:1] != rows:
                raise ModelOutputInvalid(name, f"has shape {value.shape} for {rows[0]} rows", "wrong_rows")
            # The same as `not isfinite(…).all()`, for half a microsecond instead of one and a half.
            if finite and 0 in np.isfinite(value).tobytes():
                raise ModelOutputInvalid(name, "is not finite")
        return dict(zip(self._outputs, values, strict=True))

    def predict(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Encode named columns and run. Raises ContractViolation, ModelOutputInvalid."""
        return self.run(encode(self.contract, columns))

    def placement(self) -> dict[str, int]:
        """How many nodes of the optimized graph run on each execution provider."""
        counts: Counter[str] = Counter()
        for group in self._session.get_provider_graph_assignment_info():
            counts[group.ep_name] += len(group.get_nodes())
        return dict(counts)

    def warm_up(self, plan: Plan) -> list[Cost]:
        """Run every shape that the plan allows, or the ends where batches are not padded, so that no client
        pays for first allocations. Returns what each took. Raises WarmUpFailed."""
        return [(*shape, self._measured(shape)) for shape in warm_up_shapes(self.contract, plan)]

    def close(self) -> None:
        """Free the session and its memory; nothing may run after this."""
        self._session = self._run = None

    def _values(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs in the contract's order, unchecked."""
        return self._run(self._outputs, feeds, None)

    def _measured(self, shape: Shape) -> float:
        """The ms of the second run of a shape. What comes back need not be finite: the input is made up."""
        feeds = neutral(self.contract, shape)
        try:
            first_ms = self._timed(feeds, shape)
            return first_ms if first_ms > LONG_RUN_MS else self._timed(feeds, shape)
        except WarmUpFailed:
            raise
        except (*runtime_errors(), RuntimeError) as error:
            raise WarmUpFailed(shape, error) from error

    def _timed(self, feeds: Mapping[str, np.ndarray], shape: Shape) -> float:
        started = time.perf_counter()
        values = self._values(feeds)
        took_ms = (time.perf_counter() - started) * 1000
        for name, wanted in output_shapes(self.contract, shape).items():
            found = values[self._outputs.index(name)].shape
            if not _fits(found, wanted):
                raise WarmUpFailed(shape, f"its output {name} has shape {found} where {wanted} is expected.")
        return took_ms


def runtime_errors() -> tuple[type[Exception], ...]:
    """All that ONNX Runtime raises: its errors have no base of their own."""
    kinds = vars(import_module("onnxruntime.capi.onnxruntime_pybind11_state")).values()
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))


def _session(model: Path, threads: int, providers: Sequence[Provider]) -> Any:
    import onnxruntime

    names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
    if missing := sorted(set(names) - set(onnxruntime.get_available_providers())):
        raise ProviderMissing(
            f"{', '.join(missing)} is not in the installed ONNX Runtime; install the extra that has it."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = LOG_FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if CPU not in names:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(
        model, options, providers=list(providers), enable_fallback=0, disabled_optimizers=[REQUANTIZER]
    )
    if session.get_providers()[: len(names)] != names:
        raise ProviderMissing(f"{model} runs on {session.get_providers()}, not on {names}.")
    return session


def _check_nodes(kind: str, nodes: Sequence, fields: Sequence[Field]) -> None:
    found = {node.name: (_dtype(node.type), len(node.shape)) for node in nodes}
    wanted = {field.name: (field.dtype, len(field.shape)) for field in fields}
    if found != wanted:
        raise ContractMismatch(
            f"The {kind}s of the ONNX file, as (dtype, rank), are {found}, the contract says {wanted}: "
            "export the model again."
        )


def _dtype(onnx_type: str) -> str:
    """`tensor(float)` is NumPy's float32, `tensor(double)` float64; the others have NumPy's names."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a shape is the wanted one, where -1 is any size."""
    return len(found) == len(wanted) and all(w in (-1, f) for f, w in zip(found, wanted, strict=True))
