"""MLflow's model registry: which versions there are, and what was registered."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Tensor:
    """One tensor of a signature; -1 in `shape` is any length, and the batch comes first."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class RegisteredModel:
    """One version, fetched. `file` is a torch.export archive (`pt2`) or an ONNX file."""

    name: str
    version: str
    model_id: str
    form: str
    file: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: Mapping = field(default_factory=dict)


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
        """Download the version's model file into the folder. Raises ModelNotFound, RegistryUnreachable, and
        ModelRefused for a model that would have to be unpickled or has no signature."""

    @abstractmethod
    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point the alias at the version. Raises ModelNotFound, RegistryUnreachable."""
