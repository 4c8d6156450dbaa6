"""What a release did under load, as it is kept: the figures behind the gate and the report."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipelines.core.latency import Stage

LOAD_FILE = "load.json"


@dataclass(frozen=True)
class Service:
    """What the service did in one stage, by its own metrics and by the system.

    cpu_us       CPU time of all its processes for one request
    memory_mib   resident memory of all its processes at the end; `descriptors` likewise
    batch_rows   how many batches had so many rows: cumulative counts by upper end, as Prometheus has them
    stage_ms     mean ms of each part of a request: parse, queue, assemble, model, respond
    """

    cpu_us: float
    memory_mib: float
    descriptors: int
    batch_rows: Mapping[str, int]
    stage_ms: Mapping[str, float]


@dataclass(frozen=True)
class Step:
    """One stage and what the service did in it. `kind` says what for: "peak" (below, at and at twice the
    expected peak), "climb" (towards the knee), "overload" or "soak". `histogram` is an HdrHistogram of the
    answered requests in µs, compressed, in base64."""

    kind: str
    stage: Stage
    service: Service
    histogram: str


@dataclass(frozen=True)
class Trial:
    """One release under load. `cores` is what its plan uses.

    knee_rps       the highest rate at which the promise held
    knee_reached   whether a higher one broke it; else nothing higher could be offered
    """

    version: str
    release_id: str
    rung: str
    cores: int
    steps: tuple[Step, ...]
    knee_rps: float
    knee_reached: bool

    def of(self, kind: str) -> list[Step]:
        return [step for step in self.steps if step.kind == kind]


@dataclass(frozen=True)
class Load:
    """A load test: what was promised, the candidate's trial and, where a version serves, that version's,
    measured turn about in the same run. `starting_seconds` is how long their services took to be ready."""

    p99_ms: float
    max_error_rate: float
    expected_peak_rps: float
    max_latency_ms: float
    price_per_core_hour: float | None
    offered_seconds: float
    starting_seconds: float
    candidate: Trial
    production: Trial | None = None

    def save(self, folder: Path) -> None:
        (folder / LOAD_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Load":
        """What `save` wrote. Raises FileNotFoundError."""
        found = json.loads((folder / LOAD_FILE).read_text())
        trials = {name: _trial(found[name]) for name in ("candidate", "production")}
        return cls(**{**found, **trials})


def _trial(found: dict | None) -> Trial | None:
    if found is None:
        return None
    steps = tuple(
        replace(Step(**step), stage=Stage(**step["stage"]), service=Service(**step["service"]))
        for step in found["steps"]
    )
    return Trial(**{**found, "steps": steps})
