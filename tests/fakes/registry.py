"""A model registry in memory."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipelines.core.errors import ModelNotFound, ModelRefused, RegistryUnreachable
from pipelines.gateways.registry import RegisteredModel, Registry, Tensor


class FakeRegistry(Registry):
    """Versions are counted from 1. With `reachable` set to False, every call raises RegistryUnreachable."""

    def __init__(self) -> None:
        self.reachable = True
        self._versions: dict[str, list[RegisteredModel | ModelRefused]] = {}
        self._aliases: dict[tuple[str, str], str] = {}

    def add(
        self,
        name: str,
        file: Path,
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
        form: str = "onnx",
        metadata: Mapping | None = None,
        tokenizer: Path | None = None,
    ) -> str:
        """Register a file as the next version."""
        version = str(len(self._versions.get(name, [])) + 1)
        model = RegisteredModel(
            name, version, f"m-{name}-{version}", form, file, inputs, outputs, metadata or {}, tokenizer
        )
        self._versions.setdefault(name, []).append(model)
        return version

    def add_refused(self, name: str, reason: str, mend: str) -> str:
        """Register a version that `fetch` refuses, as it does a pickle."""
        version = str(len(self._versions.get(name, [])) + 1)
        self._versions.setdefault(name, []).append(ModelRefused(name, version, reason, mend))
        return version

    def resolve(self, name: str, alias: str) -> str:
        self._check_reachable()
        if (name, alias) not in self._aliases:
            raise ModelNotFound(name, alias=alias)
        return self._aliases[name, alias]

    def versions(self, name: str) -> list[str]:
        self._check_reachable()
        return [str(number) for number in range(1, len(self._versions.get(name, [])) + 1)]

    def fetch(self, name: str, version: str, into: Path) -> RegisteredModel:
        self._check_exists(name, version)
        model = self._versions[name][int(version) - 1]
        if isinstance(model, ModelRefused):
            raise model
        place = into / "artifacts"  # somewhere below, as MLflow does
        place.mkdir(parents=True, exist_ok=True)
        for path in model.file.parent.glob(f"{model.file.name}*"):  # external data lies beside its model
            shutil.copy(path, place)
        tokenizer = Path(shutil.copy(model.tokenizer, place)) if model.tokenizer else None
        return replace(model, file=place / model.file.name, tokenizer=tokenizer)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self._check_exists(name, version)
        self._aliases[name, alias] = version

    def _check_exists(self, name: str, version: str) -> None:
        if version not in self.versions(name):
            raise ModelNotFound(name, version=version)

    def _check_reachable(self) -> None:
        if not self.reachable:
            raise RegistryUnreachable("fake://registry", "it was told not to answer")
