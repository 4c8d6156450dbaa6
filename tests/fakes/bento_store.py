"""Bentos without BentoML: the model and its manifest in a folder, served by `model_service`."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from bentos.manifest import MODEL_FILE, Manifest, verified_model
from pipelines.gateways.bento_store import BentoStore, BuiltBento
from pipelines.gateways.processes import Command


@dataclass(frozen=True)
class FakeBentoStore(BentoStore):
    """Built in milliseconds; its command serves for real, from the environment of the tests."""

    folder: Path

    def build(self, model: Path, manifest: Manifest) -> BuiltBento:
        path = self.folder / manifest.model / manifest.release_id
        if not path.exists():
            path.mkdir(parents=True)
            shutil.copyfile(model, path / MODEL_FILE)
            for name in manifest.files:
                shutil.copyfile(model.with_name(name), path / name)
            manifest.save(path)
        packed = verified_model(path, manifest)
        return BuiltBento(f"{manifest.model}:{manifest.release_id}", path, packed, packed.stat().st_size)

    def command(self, tag: str, port: int, *, logged: bool = False) -> Command:
        script = Path(__file__).with_name("model_service.py")
        folder = self.folder.joinpath(*tag.split(":"))
        return Command((sys.executable, str(script), str(folder), str(port)))
