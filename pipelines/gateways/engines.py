"""podman, docker, buildah: which of them is there, and what they complain of, in one sentence with the mend.

Not a door of its own: it stands behind `containers`.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.core.errors import ContainersFailed, SettingsInvalid

ENGINES = {"podman": "podman", "docker": "docker", "buildah": "podman"}
"""What builds images → what runs them."""
SETTINGS = (
    "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "CONTAINER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT",
    "DOCKER_HOST", "PATH", "XDG_RUNTIME_DIR",
)  # fmt: skip
"""What engines take from the environment: where their images lie and whom they ask."""

COMPLAINTS = (
    (
        r"no space left on device|disk quota exceeded",
        "the disk on which {engine} keeps its images is full",
        "free some of it, e.g. with `{engine} image prune`, or move its store",
    ),
    (
        r"permission denied|operation not permitted|not enough IDs|newuidmap|setup user namespace|"
        r"cannot connect to the docker daemon|unable to connect to podman",
        "this user may not use {engine}, or it does not run",
        "make `{engine} info` work for this user, or set runtime: process",
    ),
    (
        r"dial tcp|no such host|pinging container registry|registry.*(?:timeout|denied)|manifest unknown|"
        r"initializing source|failed to resolve source|pull access denied|short-name|image not known",
        "the base image {base} cannot be fetched",
        "make its registry reachable, or set SEATRIAL_BASE_IMAGE to an image with Python that is there",
    ),
)
"""What an engine prints → the reason and the mend. The first that fits counts."""
UNKNOWN = "image not known|no such image"


@dataclass(frozen=True)
class Engine:
    """One engine: the name of what builds and of what runs, which may differ, and their environment."""

    builds: str
    runs: str
    env: Mapping[str, str]

    @classmethod
    def find(cls, wanted: str | None, env: Mapping[str, str]) -> "Engine":
        """The engine that is `wanted`, else the first that is there. Raises ContainersFailed, SettingsInvalid
        for one that is unknown."""
        if wanted and wanted not in ENGINES:
            raise SettingsInvalid("SEATRIAL_CONTAINER_ENGINE", wanted, f"it is one of {', '.join(ENGINES)}")
        for builds in [wanted] if wanted else ENGINES:
            if all(shutil.which(each, path=env.get("PATH")) for each in (builds, ENGINES[builds])):
                return cls(builds, ENGINES[builds], env)
        needed = wanted or "a container engine"
        mend = "install podman or docker, or set runtime: process"
        raise ContainersFailed(f"Looking for {needed}", "it is not on the PATH", mend)

    def ask(self, doing: str, *argv: str) -> str:
        """What the engine prints. Raises ContainersFailed, where `doing` is what was tried."""
        ended = self._run(*argv)
        if ended.returncode:
            last = ended.stderr.strip().rpartition("\n")[2].rstrip(".")
            known = self.failure(doing, ended.stderr)
            raise known or ContainersFailed(doing, last, f"see what `{self.runs} {argv[0]}` says")
        return ended.stdout

    def image(self, name: str) -> Mapping[str, Any] | None:
        """What the engine knows of an image, None where it has none of that name. Raises ContainersFailed."""
        looking = ("image", "inspect", self.handle(name))
        ended = self._run(*looking)
        if ended.returncode and re.search(UNKNOWN, ended.stderr, re.IGNORECASE):
            return None
        return json.loads(
            ended.stdout if not ended.returncode else self.ask(f"Looking for {name}", *looking)
        )[0]

    def handle(self, reference: str) -> str:
        """How to call name:tag@sha256:…. docker knows images that were never in a registry by digest only."""
        _, at, digest = reference.partition("@")
        return digest if at and self.runs == "docker" else reference

    def _run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.runs, *argv], env=self.env, capture_output=True, text=True)

    def failure(self, doing: str, output: str, base: str = "") -> ContainersFailed | None:
        """What an output complains of, None where it is nothing that is known."""
        for pattern, reason, mend in COMPLAINTS:
            if re.search(pattern, output, re.IGNORECASE):
                texts = (text.format(engine=self.runs, base=base) for text in (reason, mend))
                return ContainersFailed(doing, *texts)
        return None


def digest_of(image: Mapping[str, Any]) -> str:
    """sha256:… of the manifest; docker has none for what was never in a registry, but that of the
    configuration, which names all layers as well."""
    return image.get("Digest") or f"sha256:{image['Id'].removeprefix('sha256:')}"
