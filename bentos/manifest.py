"""What is packed beside `model.onnx`: all that the service must know, nothing about how it was made."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bentos.contract import Contract

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"


class ManifestMismatch(RuntimeError):
    """The files are not those that the manifest describes, or it is damaged itself: they are refused."""


Cost = tuple[int, int, float]
"""Rows of a batch, its length (0 where no dimension may have any length), and its ms in the model."""


@dataclass(frozen=True)
class Plan:
    """How requests are admitted, batched and run. Every number can be changed without new code.

    max_batch_size     rows in one model run
    max_latency_ms     the deadline of a request that names none, many rows with their own work on top; what
                       would be later is refused 429 at once
    max_queue_rows     rows that may wait; None: as many as can be answered within max_latency_ms
    max_request_rows   rows of one request; more are 413
    max_body_bytes     of one request, compressed or not; more are 413
    threads            intra-op threads of an ONNX Runtime session
    workers            processes, each with its own queue
    replicas           sessions in a process, each with a thread of its own; they share the device
    device             cpu or cuda; nothing falls back from one to the other
    padded_batch_sizes batches are filled up to one of these sizes, for CUDA graphs; empty: as they come
    lengths            upper ends of the length buckets; rows of one bucket share a batch
    costs              what a batch takes, as measured by the pipeline; corrected while serving
    cache_seconds      how long an answer may be repeated for the same input; 0: no cache
    cache_entries      of the cache in the process
    fallback           while the circuit breaker is open: none (503), cached (an earlier answer) or default
    default_answer     the {output: value} of a row that `default` answers with
    breaker_failures   failed model runs in a row, with none that succeeded, that open the circuit breaker
    breaker_seconds    how long it stays open before one batch is tried
    capture_share      the share of requests that go to the prediction log, where one is configured
    drain_seconds      between SIGTERM and the end of listening: time for routers to see /readyz fail
    """

    max_batch_size: int = 64
    max_latency_ms: float = 1000
    max_queue_rows: int | None = None
    max_request_rows: int = 10_000
    max_body_bytes: int = 16 * 2**20
    threads: int = 1
    workers: int = 1
    replicas: int = 1
    device: str = "cpu"
    padded_batch_sizes: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    costs: tuple[Cost, ...] = ()
    cache_seconds: float = 0
    cache_entries: int = 10_000
    fallback: str = "none"
    default_answer: Mapping[str, Any] | None = None
    breaker_failures: int = 20
    breaker_seconds: float = 5
    capture_share: float = 1.0
    drain_seconds: float = 1.0

    @classmethod
    def from_dict(cls, fields: Mapping) -> "Plan":
        tuples = {name: tuple(fields.get(name, ())) for name in ("padded_batch_sizes", "lengths")}
        return cls(**{**fields, **tuples, "costs": tuple(map(tuple, fields.get("costs", ())))})


@dataclass(frozen=True)
class Slo:
    """What was promised: the p99 of a request, the share that may fail, and up to which rate."""

    p99_ms: float = 100.0
    max_error_rate: float = 0.001
    expected_peak_rps: float = 50.0


@dataclass(frozen=True)
class Manifest:
    """One release, as the service sees it. `sha256` is the digest of model.onnx, `files` holds those of the
    other files packed beside it, by name."""

    model: str
    version: str
    release_id: str
    rung: str
    sha256: str
    contract: Contract
    plan: Plan = field(default_factory=Plan)
    slo: Slo = field(default_factory=Slo)
    files: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, str]:
        """What tells a release from others, in logs, metrics, traces and the prediction log."""
        return {"model": self.model, "version": self.version, "release_id": self.release_id}

    def save(self, folder: Path) -> None:
        (folder / MANIFEST_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """The manifest of a packed release. Raises ManifestMismatch where it is missing or damaged."""
        path = folder / MANIFEST_FILE
        try:
            return cls._from_dict(json.loads(path.read_text()))
        except OSError as error:
            raise ManifestMismatch(f"{path} cannot be read: build again.") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ManifestMismatch(f"{path} is damaged or of another version: build again.") from error

    @classmethod
    def _from_dict(cls, fields: Mapping) -> "Manifest":
        return cls(
            **{
                **fields,
                "contract": Contract.from_dict(fields["contract"]),
                "plan": Plan.from_dict(fields["plan"]),
                "slo": Slo(**fields["slo"]),
            }
        )


def sha256(path: Path) -> str:
    """The hex digest of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verified_model(folder: Path, manifest: Manifest) -> Path:
    """The path of model.onnx after its digest, and that of every file beside it, was compared with the
    manifest's.

    ONNX Runtime loads a file with a flipped weight bit without a word, so this is the only guard. A file that
    lies outside the folder, by its name or by a link, could change after the check and is refused. Raises
    ManifestMismatch.
    """
    text = manifest.contract.text
    if text is not None and text.file not in manifest.files:
        raise ManifestMismatch(f"The manifest has no digest of the tokenizer {text.file}: build again.")
    for name, wanted in {MODEL_FILE: manifest.sha256, **manifest.files}.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ManifestMismatch(f"{path} lies outside the release: build again.")
        found = sha256(path) if path.is_file() else "no file"
        if found != wanted:
            raise ManifestMismatch(
                f"{path} has SHA-256 {found[:12]}…, the manifest says {wanted!s:.12}…: build again."
            )
    return folder / MODEL_FILE
