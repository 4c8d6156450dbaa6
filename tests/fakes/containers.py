"""Containers without an engine: an image is a digest of what it would be built from and runs as a process."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bentos.manifest import MANIFEST_FILE, MODEL_FILE, sha256
from pipelines.core.errors import ContainersFailed
from pipelines.core.image import Facts, Resources
from pipelines.gateways.containers import BILL_FILE, Containers, Image
from pipelines.gateways.processes import Command
from tests.fakes.bento_store import FakeBentoStore

BUILT = "2026-01-01T00:00:00Z"
PACKAGES = {"bentoml": "1.4.39", "numpy": "2.4.6", "onnxruntime": "1.31.1"}
SYSTEM = {"bash": "5.2.15-2", "libc6": "2.36-9"}


@dataclass(frozen=True)
class FakeContainers(Containers):
    """Images of the bentos of a fake store, which lies in the same folder; their file is what `digest`
    reads, so that one can be replaced by writing another into it."""

    store: FakeBentoStore

    def build(self, tag: str, resources: Resources) -> Image:
        packed = self.store.folder.joinpath(*tag.split(":"))
        content = f"{tag} {asdict(resources)} {sha256(packed / MODEL_FILE)}"
        digest = f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
        self.file(tag).write_text(digest)
        size_bytes = (packed / MODEL_FILE).stat().st_size
        return Image(f"localhost/seatrial/{tag}@{digest}", digest, size_bytes, BUILT)

    def examine(self, reference: str, folder: Path) -> Facts:
        packed = self._packed(reference)
        components = [{"name": name} for name in [*PACKAGES, *SYSTEM]]
        (folder / BILL_FILE).write_text(json.dumps({"bomFormat": "CycloneDX", "components": components}))
        return Facts(
            reference.rpartition("@")[2], (packed / MODEL_FILE).stat().st_size, "bentoml", 1034, ("serve",),
            PACKAGES, SYSTEM, sha256(packed / MODEL_FILE), sha256(packed / MANIFEST_FILE), (),
        )  # fmt: skip

    def digest(self, reference: str) -> str | None:
        file = self.file(_tag(reference))
        return file.read_text() if file.exists() else None

    def remove(self, reference: str) -> None:
        if self.exists(reference):
            self.file(_tag(reference)).unlink()

    def command(self, reference: str, port: int, *, name: str, logged: bool = False) -> Command:
        self._packed(reference)
        return self.store.command(_tag(reference), port, logged=logged)

    def file(self, tag: str) -> Path:
        """Where the digest of a bento's image is."""
        return self.store.folder.joinpath(*tag.split(":")) / "image"

    def _packed(self, reference: str) -> Path:
        if not self.exists(reference):
            reason = f"it is {self.digest(reference)} now" if self.digest(reference) else "it is gone"
            raise ContainersFailed(f"Using the image {reference}", reason, "run its whole release again")
        return self.file(_tag(reference)).parent


def _tag(reference: str) -> str:
    return reference.partition("@")[0].rpartition("/")[2]
