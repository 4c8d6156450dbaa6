"""BentoML: building a bento from a model and its manifest, and the command that serves it from that build."""

import os
import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bentos.manifest import MODEL_FILE, Manifest, verified_model
from pipelines.core.home import Home
from pipelines.gateways.environments import locked, python_with, run
from pipelines.gateways.processes import Command

CAPTURE_SETTING = "SEATRIAL_CAPTURE_FOLDER"
"""Tells a service where its prediction log goes; without it there is none."""
CAPTURE_SECONDS = {"SEATRIAL_CAPTURE_SECONDS": "10"}
"""A rollout waits for answers to be known: six times as soon as the service would write them by itself."""

BUILD = """
import shutil, sys, bentoml
from bentoml_cli.cli import cli
tag, packed, *build = sys.argv[1:]
with bentoml.models.create(tag) as model:
    shutil.copytree(packed, model.path, dirs_exist_ok=True)
cli(["build", *build])
"""
"""Puts the model into the store and runs `bentoml build`, in a process of its own: BentoML takes its store,
and whether to phone home, from the environment."""


@dataclass(frozen=True)
class BuiltBento:
    """A bento in the store. `model` is the ONNX file packed for it; `size_bytes` counts model and source."""

    tag: str
    path: Path
    model: Path
    size_bytes: int


class BentoStore(ABC):
    """Where bentos are built and kept."""

    @abstractmethod
    def build(self, model: Path, manifest: Manifest) -> BuiltBento:
        """Pack `model` (an ONNX file), `manifest` and the files that it names, which lie beside the model,
        and run `bentoml build`. The same release again returns the bento that is there. Raises BuildFailed.
        """

    @abstractmethod
    def command(self, tag: str, port: int, *, logged: bool = False) -> Command:
        """How to serve the bento on 127.0.0.1:`port` from an environment with its requirements only, if
        `logged` with a prediction log. Creates that environment on first use. Raises BuildFailed."""


@dataclass(frozen=True)
class BentoMLStore(BentoStore):
    """BentoML's own store below `home.bentoml`. `project` is the folder of bentofile.yaml and bentos/.

    A release is built in a scratch store beside the real one and moved over when it is complete; a killed
    build leaves only the scratch folder, which the next build of that release replaces.
    """

    home: Home
    project: Path

    def build(self, model: Path, manifest: Manifest) -> BuiltBento:
        name, version = manifest.model, _version(manifest.release_id)
        with locked(self.home.bentoml / "logs" / f"{name}-{version}.lock"):
            if not self._item("bentos", name, version).is_dir():
                self._build(model, manifest, version)
        bento, packed = (self._item(kind, name, version) for kind in ("bentos", "models"))
        size_bytes = _size_bytes(bento) + _size_bytes(packed)
        return BuiltBento(f"{name}:{version}", bento, verified_model(packed, manifest), size_bytes)

    def command(self, tag: str, port: int, *, logged: bool = False) -> Command:
        name, version = tag.split(":")
        bento = self._item("bentos", name, version)
        python = python_with(bento / "env" / "python" / "requirements.txt", self.home.environments)
        # By its folder: a tag would be tried first as the name of a module.
        serve = (python, "-m", "bentoml", "serve", bento, "--host", "127.0.0.1", "--port", port)
        log = {CAPTURE_SETTING: str(self.home.prediction_log(name)), **CAPTURE_SECONDS}
        return Command(tuple(map(str, serve)), (log if logged else {}) | _settings(self._serving_home(port)))

    def _item(self, kind: str, name: str, version: str) -> Path:
        return self.home.bentoml / kind / name / version

    def _build(self, model: Path, manifest: Manifest, version: str) -> None:
        name, tag = manifest.model, f"{manifest.model}:{version}"
        with _scratch(self.home.bentoml / "building" / f"{name}-{version}") as scratch:
            store, context = scratch / "store", scratch / "context"
            packed = _pack(model, manifest, scratch / "model")
            self._stage(context)
            env = {"HOME": str(Path.home()), "PATH": _path_with_no_uv(scratch / "bin"), **_settings(store)}
            options = ("--name", name, "--version", version, "--arg", f"release={tag}")
            log = self.home.bentoml / "logs" / f"{name}-{version}.log"
            build = (sys.executable, "-c", BUILD, tag, str(packed), *options)
            run(f"The bento {tag}", build, env, context, log)
            for kind in ("models", "bentos"):  # the bento last: it says that all is there
                self._move(store / kind / name, kind, version)

    def _stage(self, context: Path) -> None:
        """Copy the sources only: BentoML walks the whole folder that it builds from."""
        bentos = self.project / "bentos"
        files = (self.project / "bentofile.yaml", bentos / "requirements.txt", *bentos.rglob("*.py"))
        for source in files:
            target = context / source.relative_to(self.project)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def _move(self, built: Path, kind: str, version: str) -> None:
        target = self._item(kind, built.name, version)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        (built / version).rename(target)
        (built / "latest").replace(target.parent / "latest")

    def _serving_home(self, port: int) -> Path:
        """A BENTOML_HOME of the service's own, with the shared store in it. BentoML empties the folder of
        metrics in its home at every start, which would take a neighbour's away."""
        own = self.home.bentoml / "serving" / str(port)
        own.mkdir(parents=True, exist_ok=True)
        for kind in ("bentos", "models"):
            if not (own / kind).is_symlink():
                (own / kind).symlink_to(self.home.bentoml / kind)
        return own


def _version(release_id: str) -> str:
    """The release id with only what BentoML allows in a version."""
    return re.sub(r"[^a-z0-9._-]", "-", release_id.lower()).strip("._-")


def _pack(model: Path, manifest: Manifest, folder: Path) -> Path:
    folder.mkdir(parents=True)
    shutil.copyfile(model, folder / MODEL_FILE)
    for name in manifest.files:
        shutil.copyfile(model.with_name(name), folder / name)
    manifest.save(folder)
    verified_model(folder, manifest)
    return folder


def _settings(bentoml_home: Path) -> dict[str, str]:
    return {"BENTOML_HOME": str(bentoml_home), "BENTOML_DO_NOT_TRACK": "True"}


def _path_with_no_uv(folder: Path) -> str:
    """A PATH whose `uv` only fails. Where BentoML finds none, it installs one into the environment that runs
    it, though it needs it only to lock packages, and ours are locked."""
    folder.mkdir(parents=True)
    (folder / "uv").symlink_to(shutil.which("false") or "/bin/false")
    return os.pathsep.join((str(folder), os.environ["PATH"]))


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
