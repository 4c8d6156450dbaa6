"""How a file from the registry is refused: in one sentence, however much a library says of it."""

from pathlib import Path

from pipelines.core.errors import ModelRefused

EXPORT_YOURSELF = "or export the model to ONNX yourself and log that with mlflow.onnx.log_model"


def refused(source: Path, reason: str, mend: str) -> ModelRefused:
    return ModelRefused("The model", f"in {source.name}", reason, mend)


def first_line(error: BaseException) -> str:
    """What an error says, as a part of a sentence."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".:")
