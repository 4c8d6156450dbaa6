"""What MLflow keeps of a logged model, read without running a line of it.

A model file is data or it is refused: a torch.export archive whose records are all tensors, or an ONNX file.
Everything else would have to be unpickled, and unpickling runs whatever the file says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core.errors import ModelRefused
from pipelines.core.texts import TOKENIZER_FILE

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

ARCHIVE = "model.pt2"
RELOG_TORCH = (
    "log it again with mlflow.pytorch.log_model(net, name='model', serialization_format='pt2', signature=…, "
    "input_example=(…), registered_model_name='{name}')"
)
RELOG_OTHER = (
    "convert it to ONNX and log that with mlflow.onnx.log_model(onnx_model, name='model', signature=…, "
    "registered_model_name='{name}')"
)
ADD_SIGNATURE = (
    "log it again with signature=ModelSignature(inputs=Schema([TensorSpec(np.dtype('float32'), (-1,), "
    "'column'), …]), outputs=Schema([…])), every tensor with its name"
)


@dataclass(frozen=True)
class Tensor:
    """One tensor of a signature; -1 in `shape` is any length, and the batch comes first."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class RegisteredModel:
    """One version, fetched. `file` is a torch.export archive (`pt2`) or an ONNX file; `tokenizer` is the
    tokenizer.json among the extra_files that it was registered with, if there was one."""

    name: str
    version: str
    model_id: str
    form: str
    file: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: Mapping = field(default_factory=dict)
    tokenizer: Path | None = None


def download(name: str, version: str, source: str, into: Path, tracking_uri: str) -> RegisteredModel:
    """Copy the model file at the artifact URI `source`, and its tokenizer, into the folder. Raises
    ModelRefused."""
    from mlflow.artifacts import download_artifacts
    from mlflow.models import Model

    copy = partial(download_artifacts, dst_path=str(into), tracking_uri=tracking_uri)
    into.mkdir(parents=True, exist_ok=True)
    model = Model.load(copy(f"{source}/MLmodel"))
    inputs, outputs = _tensors(name, version, model)
    if "onnx" in model.flavors:
        # Its weights may lie in a file of any name beside it, so all is copied.
        form, file = "onnx", Path(copy(source)) / model.flavors["onnx"]["data"]
    else:
        path = _archive_path(name, version, model, source, tracking_uri)
        form, file = "pt2", Path(copy(path))
        _refuse_pickles_in(file, name, version)
    extra = _tokenizer_path(model)
    tokenizer = Path(copy(f"{source}/{extra}")) if extra else None
    metadata, model_id = model.metadata or {}, model.model_id or ""
    return RegisteredModel(name, version, model_id, form, file, inputs, outputs, metadata, tokenizer)


def signature(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> "ModelSignature":
    """The tensors as MLflow writes them down."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    def schema(tensors: Sequence[Tensor]) -> Schema:
        return Schema([TensorSpec(np.dtype(t.dtype), t.shape, t.name) for t in tensors])

    return ModelSignature(inputs=schema(inputs), outputs=schema(outputs))


def _tensors(name: str, version: str, model: "Model") -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs and outputs of the model's signature."""
    found = model.signature
    if not (found and found.inputs and found.outputs and found.inputs.is_tensor_spec()):
        raise ModelRefused(name, version, "it has no signature of tensors", ADD_SIGNATURE)
    inputs, outputs = (
        tuple(Tensor(spec.name or "", spec.type.name, tuple(spec.shape)) for spec in schema.inputs)
        for schema in (found.inputs, found.outputs)
    )
    if not all(tensor.name for tensor in [*inputs, *outputs]):
        raise ModelRefused(name, version, "its signature has a tensor without a name", ADD_SIGNATURE)
    return inputs, outputs


def _tokenizer_path(model: "Model") -> str | None:
    """Where among the model's extra files the tokenizer is."""
    extra = [file["path"] for flavor in model.flavors.values() for file in flavor.get("extra_files") or []]
    return next((path for path in extra if Path(path).name == TOKENIZER_FILE), None)


def _archive_path(name: str, version: str, model: "Model", source: str, tracking_uri: str) -> str:
    """Where the torch.export archive of the model is."""
    from mlflow.artifacts import list_artifacts

    if "pytorch" not in model.flavors:
        flavor = next((flavor for flavor in model.flavors if flavor != "python_function"), "python_function")
        raise ModelRefused(name, version, f"it is a pickled {flavor} model", RELOG_OTHER.format(name=name))
    folder = f"{source}/{model.flavors['pytorch']['model_data']}"
    files = list_artifacts(folder, tracking_uri=tracking_uri)
    if ARCHIVE not in {Path(file.path).name for file in files}:
        raise ModelRefused(name, version, "it is a pickled pytorch model", RELOG_TORCH.format(name=name))
    return f"{folder}/{ARCHIVE}"


def _refuse_pickles_in(archive: Path, name: str, version: str) -> None:
    """`torch.export.load` unpickles records of the archive: MLflow's check finds any that are not tensors."""
    from mlflow.exceptions import MlflowException
    from mlflow.pytorch import _validate_pt2_archive_is_pickle_free

    try:
        _validate_pt2_archive_is_pickle_free(str(archive))
    except MlflowException as error:
        archive.unlink()
        reason = f"its {ARCHIVE} holds records that are not plain tensors"
        raise ModelRefused(name, version, reason, RELOG_TORCH.format(name=name)) from error
