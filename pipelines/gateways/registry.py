"""MLflow's model registry: which versions there are, and what was registered."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core.errors import ModelNotFound, RegistryUnreachable
from pipelines.gateways.mlmodel import RegisteredModel, Tensor, download, signature

if TYPE_CHECKING:
    import mlflow
    import torch

# Answer or fail within seconds, never unpickle, send nothing home, draw no bars. MLflow reads these late.
MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


class Registry(ABC):
    """The model registry."""

    @abstractmethod
    def resolve(self, name: str, alias: str) -> str:
        """The version that the alias points to now. Raises ModelNotFound, RegistryUnreachable."""

    @abstractmethod
    def versions(self, name: str) -> list[str]:
        """All versions, oldest first; empty when there is no such model. Raises RegistryUnreachable."""

    @abstractmethod
    def fetch(self, name: str, version: str, into: Path) -> RegisteredModel:
        """Download the version's model file and tokenizer into the folder. Raises ModelNotFound,
        RegistryUnreachable, and ModelRefused for what would have to be unpickled or has no signature."""

    @abstractmethod
    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point the alias at the version. Raises ModelNotFound, RegistryUnreachable."""


class MlflowRegistry(Registry):
    """MLflow at a tracking URI: `sqlite:///…` with its artifacts beside the database, or a server."""

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        os.environ.update(MLFLOW_SETTINGS)

    def resolve(self, name: str, alias: str) -> str:
        with self._asking(ModelNotFound(name, alias=alias)):
            aliases = self._client.get_registered_model(name).aliases
        if alias not in aliases:
            raise ModelNotFound(name, alias=alias)
        return str(aliases[alias])

    def versions(self, name: str) -> list[str]:
        with self._asking(ModelNotFound(name)):
            found = self._client.search_model_versions(f"name='{name}'")
        return sorted((str(version.version) for version in found), key=int)

    def fetch(self, name: str, version: str, into: Path) -> RegisteredModel:
        with self._asking(ModelNotFound(name, version=version)):
            source = self._client.get_model_version_download_uri(name, version)
            return download(name, version, source, into, self.tracking_uri)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        with self._asking(ModelNotFound(name, version=version)):
            self._client.get_model_version(name, version)
            self._client.set_registered_model_alias(name, alias, version)

    def log_torch(
        self,
        net: "torch.nn.Module",
        name: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        example: tuple,
        metadata: Mapping,
        tokenizer: Path | None = None,
    ) -> str:
        """Register the net as the next version of `name`, as a torch.export archive, and return the version.
        `example` is one array an input, of two rows or more; `tokenizer` a tokenizer.json, for texts. Raises
        RegistryUnreachable."""
        with self._asking(ModelNotFound(name)):
            experiment = self._experiment(name)
        import mlflow
        import torch
        from mlflow.pytorch import log_model

        mlflow.set_tracking_uri(self.tracking_uri)
        with mlflow.start_run(experiment_id=experiment):
            logged = log_model(
                net.eval(),
                name="model",
                serialization_format="pt2",
                signature=signature(inputs, outputs),
                input_example=example,
                pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
                metadata=dict(metadata),
                extra_files=[str(tokenizer)] if tokenizer else None,
                registered_model_name=name,
            )
        return str(logged.registered_model_version)

    def _experiment(self, name: str) -> str:
        """The experiment of the model's name, created on first use."""
        found = self._client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        database = self.tracking_uri.removeprefix("sqlite:///")
        beside = None if database == self.tracking_uri else str(Path(database).parent / "artifacts")
        return self._client.create_experiment(name, beside)

    @cached_property
    def _client(self) -> "mlflow.MlflowClient":
        from mlflow import MlflowClient

        if not self.tracking_uri.startswith("http"):
            _check_database(self.tracking_uri)
        return MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)

    @contextmanager
    def _asking(self, missing: ModelNotFound) -> Iterator[None]:
        """Turn what MLflow or a missing driver raises into our errors; `missing` is what was asked for."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
            if getattr(error, "error_code", None) in ABSENT:
                raise missing from error
            raise RegistryUnreachable(self.tracking_uri, _root_cause(error)) from error


def _root_cause(error: BaseException) -> str:
    """The first line of what went wrong first, e.g. "[Errno 111] Connection refused"."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return str(error).partition("\n")[0]


def _check_database(uri: str) -> None:
    """Ask the database once, for MLflow would go on asking for minutes. A new SQLite file gets its folder."""
    from sqlalchemy import create_engine, inspect

    engine = create_engine(uri)
    if engine.dialect.name == "sqlite" and engine.url.database:
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
    inspect(engine).get_table_names()
    engine.dispose()
