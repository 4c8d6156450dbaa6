"""The ONNX Runtime session as it serves. The pipeline judges and scores with the same class, so what was
measured is what runs. Only NumPy and ONNX Runtime are imported, the latter when a session is opened.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bentos.contract import Contract, Field, encode

CPU = "CPUExecutionProvider"
PROVIDERS = {"cpu": (CPU,), "cuda": ("CUDAExecutionProvider",)}
"""What a device means. With cuda alone, a node that the GPU cannot run is an error, not a slow surprise."""
LOG_ERRORS_ONLY = 3
REQUANTIZER = "WeightBiasQuantization"
"""An optimizer that quantizes, as the file is loaded, nodes that were left in float32 on purpose."""


class ContractMismatch(RuntimeError):
    """The inputs or outputs of an ONNX file are not the contract's."""


class ProviderMissing(RuntimeError):
    """The wanted accelerator cannot run the model here; it never falls back to the CPU in silence."""


class ModelOutputInvalid(RuntimeError):
    """The model answered with the wrong number of rows, or with NaN or infinity."""

    def __init__(self, output: str, reason: str) -> None:
        super().__init__(f"The model's output {output} {reason}.")


class Engine:
    """One model file, loaded with the settings it is served with.

    One thread and no spinning: sessions share cores with their neighbours, and spinning threads burn a core
    while they wait. `providers` without the CPU means that every node must run on the accelerator.
    """

    def __init__(
        self, model: Path, contract: Contract, threads: int = 1, providers: Sequence[str] = (CPU,)
    ) -> None:
        self.contract = contract
        self._session = _session(model, threads, providers)
        self._outputs = [field.name for field in contract.outputs]
        _check_nodes("input", self._session.get_inputs(), contract.inputs)
        _check_nodes("output", self._session.get_outputs(), contract.outputs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model's outputs by name for encoded `feeds`. Raises ModelOutputInvalid."""
        rows = len(next(iter(feeds.values())))
        values = [np.asarray(value) for value in self._session.run(self._outputs, feeds)]
        outputs = dict(zip(self._outputs, values, strict=True))
        for field in self.contract.outputs:
            _check_output(field, outputs[field.name], rows)
        return outputs

    def predict(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Encode named columns and run. Raises ContractViolation, ModelOutputInvalid."""
        return self.run(encode(self.contract, columns))

    def placement(self) -> dict[str, int]:
        """How many nodes of the optimized graph run on each execution provider."""
        counts: Counter[str] = Counter()
        for group in self._session.get_provider_graph_assignment_info():
            counts[group.ep_name] += len(group.get_nodes())
        return dict(counts)

    def warm_up(self, batch_sizes: Iterable[int]) -> None:
        """Run zeros once at each size, so that no client pays for first allocations."""
        for rows in batch_sizes:
            feeds = {
                field.name: np.zeros((rows, *(max(1, size) for size in field.shape[1:])), field.dtype)
                for field in self.contract.inputs
            }
            self._session.run(self._outputs, feeds)


def _session(model: Path, threads: int, providers: Sequence[str]):
    import onnxruntime

    if missing := sorted(set(providers) - set(onnxruntime.get_available_providers())):
        raise ProviderMissing(
            f"{', '.join(missing)} is not in the installed ONNX Runtime; install the extra that has it."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if CPU not in providers:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(
        model, options, providers=list(providers), enable_fallback=0, disabled_optimizers=[REQUANTIZER]
    )
    if session.get_providers()[: len(providers)] != list(providers):
        raise ProviderMissing(f"{model} runs on {session.get_providers()}, not on {list(providers)}.")
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


def _check_output(field: Field, values: np.ndarray, rows: int) -> None:
    if values.shape[:1] != (rows,):
        raise ModelOutputInvalid(field.name, f"has shape {values.shape} for {rows} rows")
    if values.dtype.kind == "f" and not field.nullable and not np.isfinite(values).all():
        raise ModelOutputInvalid(field.name, "is not finite")
