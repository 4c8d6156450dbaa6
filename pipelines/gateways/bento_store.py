"""BentoML: building a bento from a model and its manifest, and the command that serves it from that build."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from bentos.manifest import Manifest
from pipelines.gateways.processes import Command


@dataclass(frozen=True)
class BuiltBento:
    """A bento in the store. `size_bytes` counts its model and source."""

    tag: str
    path: Path
    size_bytes: int


class BentoStore(ABC):
    """Where bentos are built and kept."""

    @abstractmethod
    def build(self, model: Path, manifest: Manifest) -> BuiltBento:
        """Pack `model` (an ONNX file) and `manifest`, and run `bentoml build`. The same release again returns
        the bento that is there. Raises BuildFailed."""

    @abstractmethod
    def command(self, tag: str, port: int) -> Command:
        """How to serve the bento on 127.0.0.1:`port` from an environment with its requirements only.
        Creates that environment on first use. Raises BuildFailed."""
