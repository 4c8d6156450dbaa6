"""What is packed beside `model.onnx`: all that the service must know, nothing about how it was made."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bentos.contract import Contract

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"


class ManifestMismatch(RuntimeError):
    """The model file is not the one that the manifest describes: it is refused."""


@dataclass(frozen=True)
class Plan:
    """How requests are batched and run.

    max_batch_size   rows in one model run
    max_latency_ms   a request that would wait longer than this is answered 503 at once
    threads          intra-op threads of the ONNX Runtime session
    device           cpu or cuda; nothing falls back from one to the other
    """

    max_batch_size: int = 64
    max_latency_ms: int = 1000
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Manifest:
    """One release, as the service sees it. `sha256` is the digest of model.onnx."""

    model: str
    version: str
    release_id: str
    rung: str
    sha256: str
    contract: Contract
    plan: Plan = field(default_factory=Plan)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        (folder / MANIFEST_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        fields = json.loads((folder / MANIFEST_FILE).read_text())
        return cls(
            **{
                **fields,
                "contract": Contract.from_dict(fields["contract"]),
                "plan": Plan(**fields["plan"]),
            }
        )


def sha256(path: Path) -> str:
    """The hex digest of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verified_model(folder: Path, manifest: Manifest) -> Path:
    """The path of model.onnx after its digest was compared with the manifest's.

    ONNX Runtime loads a file with a flipped weight bit without a word, so this is the only guard.
    """
    path = folder / MODEL_FILE
    found = sha256(path)
    if found != manifest.sha256:
        raise ManifestMismatch(
            f"{path} has SHA-256 {found[:12]}…, the manifest says {manifest.sha256[:12]}…: build again."
        )
    return path
