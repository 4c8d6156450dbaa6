"""Images built from bentos by `bentoml containerize`, what they hold, and the command that runs one.

A container runs by digest, never by tag alone: as a user without rights, on a file system that cannot be
written, without capabilities, and with no more CPU, memory and threads than its plan needs. It shares the
network of the machine, so that it listens on 127.0.0.1 like a process does.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from pipelines.core.errors import BuildFailed, ContainersFailed
from pipelines.core.home import Home
from pipelines.core.image import Facts, Resources
from pipelines.gateways.bento_store import CAPTURE_SECONDS, CAPTURE_SETTING
from pipelines.gateways.engines import SETTINGS, Engine, digest_of
from pipelines.gateways.environments import locked, run
from pipelines.gateways.image_files import bill_of, read_files
from pipelines.gateways.processes import Command
from pipelines.gateways.tables import replacing

BILL_FILE = "bom.json"
USER = 1034
"""BentoML's own in its images, and the number of its group."""
LABEL = "seatrial."
START_AGAIN = '"$0" rm --force "$1" >/dev/null 2>&1; shift; exec "$0" "$@"'
"""docker cannot replace a container that its killed client left."""


@dataclass(frozen=True)
class Image:
    """An image in the engine's store. `reference` is name:tag@digest, `digest` sha256:…."""

    reference: str
    digest: str
    size_bytes: int
    created: str


class Containers(ABC):
    """Where images are built from bentos and kept, and how they are run."""

    @abstractmethod
    def build(self, tag: str, resources: Resources) -> Image:
        """The image of a bento, which carries the limits of its container. The same bento with the same
        limits again returns the image that is there. Raises ContainersFailed, BuildFailed; nothing half built
        is left then."""

    @abstractmethod
    def examine(self, reference: str, folder: Path) -> Facts:
        """What the image is and holds. Its bill of materials goes into `folder` as bom.json, CycloneDX 1.6.
        Raises ContainersFailed."""

    @abstractmethod
    def digest(self, reference: str) -> str | None:
        """The digest of the image that has the name of `reference` now, None where there is none; another
        than in the reference is another image. Raises ContainersFailed where no engine answers."""

    @abstractmethod
    def remove(self, reference: str) -> None:
        """Forget an image, and end what runs from it. One that is gone or was replaced is fine."""

    @abstractmethod
    def command(self, reference: str, port: int, *, name: str, logged: bool = False) -> Command:
        """How to serve the image on 127.0.0.1:`port`, in the foreground, in a container called `name`, if
        `logged` with a prediction log. One of that name that was left over is ended first. Raises
        ContainersFailed where the image is gone or was replaced by another."""

    def exists(self, reference: str) -> bool:
        """Whether the image is there, unchanged."""
        return self.digest(reference) == reference.rpartition("@")[2]


@dataclass(frozen=True)
class OciContainers(Containers):
    """podman, docker or buildah, whichever `engine` says or is there. `base_image` is what images are built
    on, BentoML's own unless given; `env` the environment of the installation, of which engines take where
    their images lie and how to reach registries."""

    home: Home
    env: Mapping[str, str] = field(default_factory=dict)
    engine_name: str | None = None
    base_image: str | None = None

    @cached_property
    def engine(self) -> Engine:
        return Engine.find(self.engine_name, self.env)

    def build(self, tag: str, resources: Resources) -> Image:
        name, labels = f"localhost/seatrial/{tag}", self._labels(tag, resources)
        with locked(self.home.bentoml / "logs" / "image.lock"):
            found = self.engine.image(name)
            if found is None or not labels.items() <= (found["Config"].get("Labels") or {}).items():
                self._build(tag, name, labels)
                found = self.engine.image(name)
        if found is None:
            raise ContainersFailed(f"Building the image of {tag}", f"{name} is not there", "build it again")
        digest = digest_of(found)
        return Image(f"{name}@{digest}", digest, found["Size"], found["Created"])

    def examine(self, reference: str, folder: Path) -> Facts:
        found = self._found(reference)
        doing, engine = f"Reading the image {reference}", self.engine
        container = engine.ask(doing, "create", engine.handle(reference)).strip()
        try:
            export = (engine.runs, "export", container)
            with subprocess.Popen(export, env=self.env, stdout=subprocess.PIPE) as exporting:
                assert exporting.stdout
                files = read_files(exporting.stdout)
        except tarfile.TarError as error:
            raise ContainersFailed(
                doing, f"it could not be read to its end ({error})", "try again"
            ) from error
        finally:
            engine.ask(doing, "rm", "--force", container)
        (folder / BILL_FILE).write_text(json.dumps(bill_of(files), indent=2) + "\n")
        user = found["Config"].get("User", "")
        return Facts(
            digest_of(found), found["Size"], user,
            files.users.get(user.partition(":")[0], int(user) if user.isdigit() else 0),
            tuple(found["Config"].get("Entrypoint") or ()),
            files.python_packages, files.system_packages,
            _only(files.models), _only(files.manifests), tuple(files.setuid),
        )  # fmt: skip

    def digest(self, reference: str) -> str | None:
        found = self.engine.image(reference.partition("@")[0])
        return digest_of(found) if found else None

    def remove(self, reference: str) -> None:
        if self.exists(reference):
            self.engine.ask(f"Removing {reference}", "rmi", "--force", self.engine.handle(reference))

    def command(self, reference: str, port: int, *, name: str, logged: bool = False) -> Command:
        runs, labels = self.engine.runs, self._found(reference)["Config"].get("Labels") or {}
        cpus = min(int(labels[f"{LABEL}cpus"]), os.cpu_count() or 1)
        options = [
            *("--rm", "--name", name, "--pull", "never", "--log-driver", "none", "--network", "host"),
            *("--user", f"{USER}:{USER}", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
            *("--read-only", "--tmpfs", "/tmp:rw,nosuid,nodev,noexec,size=64m"),
            *("--env", "BENTOML_HOME=/tmp/bentoml"),
            *("--env", "SUPERVISOR_SERVER_URL"),  # by which the supervisor finds what a killed one left
            *("--cpus", str(cpus), "--memory", f"{labels[f'{LABEL}memory_mib']}m"),
            *("--pids-limit", labels[f"{LABEL}pids"]),
            *(self._log(reference) if logged else ()),
        ]
        argv = (*options, self.engine.handle(reference), "--host", "127.0.0.1", "--port", str(port))
        env = {each: self.env[each] for each in SETTINGS if each in self.env}
        if runs == "docker":
            return Command(("/bin/sh", "-c", START_AGAIN, runs, name, "run", *argv), env)
        return Command((runs, "run", "--replace", *argv), env)

    def _found(self, reference: str) -> Mapping:
        """The image, when it is still the one that its name stands for."""
        name, _, wanted = reference.partition("@")
        digest, mend = self.digest(reference), "run its whole release again"
        if digest != wanted:
            reason = f"{name} is {digest} now, another than was judged" if digest else "it is gone"
            raise ContainersFailed(f"Using the image {reference}", reason, mend)
        found = self.engine.image(reference)
        assert found
        return found

    def _labels(self, tag: str, resources: Resources) -> dict[str, str]:
        facts = {"bento": tag, "base": self.base_image or "default", **asdict(resources)}
        return {f"{LABEL}{name}": str(fact) for name, fact in facts.items()}

    def _build(self, tag: str, name: str, labels: Mapping[str, str]) -> None:
        subject, logs = f"The image of {tag}", self.home.bentoml / "logs"
        log = logs / f"image-{tag.replace(':', '-')}.log"
        before, base = self._nameless(), ""
        try:
            with self._staged(tag) as (store, base):
                build = [sys.executable, "-m", "bentoml", "containerize", tag, "--image-tag", name]
                build += ["--backend", self.engine.builds]
                build += [part for each in labels.items() for part in ("--opt", f"label={'='.join(each)}")]
                env = {**self.env, "BENTOML_HOME": str(store), "BENTOML_DO_NOT_TRACK": "True"}
                run(subject, build, env, store, log)
        except BuildFailed as error:
            for left in self._nameless() - before:
                with suppress(ContainersFailed):  # it went with the one that was built on it
                    self.engine.ask(subject, "rmi", "--force", left)
            doing = f"Building the image of {tag} (log: {log})"
            raise self.engine.failure(doing, log.read_text(), base) or error from error

    def _nameless(self) -> set[str]:
        listing = ("images", "--all", "--quiet", "--no-trunc", "--filter", "dangling=true")
        return set(self.engine.ask("Listing the images", *listing).split())

    @contextmanager
    def _staged(self, tag: str) -> Iterator[tuple[Path, str]]:
        """A store with a copy of the bento, in which it says what to build on, and the name of that.

        BentoML would install a compiler first, for packages that come as sources; ours come as wheels.
        """
        store, folder = self.home.bentoml / "building" / "image", Path("bentos", *tag.split(":"))
        shutil.rmtree(store, ignore_errors=True)
        try:
            shutil.copytree(self.home.bentoml / folder, store / folder)
            (store / "models").symlink_to(self.home.bentoml / "models")
            described = store / folder / "bento.yaml"
            bento = yaml.safe_load(described.read_text())
            bento["image"]["base_image"] = self.base_image or bento["image"]["base_image"]
            bento["image"]["commands"] = []
            with replacing(described) as temp:
                temp.write_text(yaml.safe_dump(bento))
            yield store, bento["image"]["base_image"]
        finally:
            shutil.rmtree(store, ignore_errors=True)

    def _log(self, reference: str) -> list[str]:
        """Mounts the prediction log, which the user of the container may write then."""
        model = reference.partition("@")[0].rpartition("/")[2].partition(":")[0]
        folder = self.home.prediction_log(model).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--volume", f"{folder}:{folder}"]
        for name, value in {CAPTURE_SETTING: folder, **CAPTURE_SECONDS}.items():
            options += ["--env", f"{name}={value}"]
        if os.geteuid() == 0:
            for each in [folder, *folder.rglob("*/")]:
                os.chown(each, USER, USER)
        elif self.engine.runs == "podman":
            options += ["--userns", f"keep-id:uid={USER},gid={USER}"]
        else:
            folder.chmod(0o777)
        return options


def _only(digests: Mapping[str, str]) -> str:
    """The digest of the one file there should be, empty where there is none or more than one."""
    return next(iter(digests.values())) if len(digests) == 1 else ""
