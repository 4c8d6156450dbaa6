"""What a service says of itself, before and after a stage of load, and what it did in between."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from pipelines.core.capacity.proof import Service

STAGES = ("parse", "queue", "assemble", "model", "respond")
MIB = 2**20


@dataclass(frozen=True)
class Usage:
    """What all processes of a service have used so far, and hold now."""

    cpu_seconds: float
    memory_bytes: int
    descriptors: int


@dataclass(frozen=True)
class Reading:
    """A look at a service: what the system says of it, and its own /metrics, in Prometheus' text format."""

    usage: Usage
    metrics: str


def between(before: Reading, after: Reading, requests: int) -> Service:
    """What a service did with so many requests."""
    first, last = _samples(before.metrics), _samples(after.metrics)
    grown = {key: value - first.get(key, 0.0) for key, value in last.items()}
    cpu_seconds = after.usage.cpu_seconds - before.usage.cpu_seconds
    return Service(
        cpu_us=cpu_seconds * 1e6 / requests if requests else 0.0,
        memory_mib=after.usage.memory_bytes / MIB,
        descriptors=after.usage.descriptors,
        batch_rows={
            dict(labels)["le"]: int(value)
            for (name, labels), value in grown.items()
            if name == "seatrial_batch_rows_bucket"
        },
        stage_ms={stage: _mean_ms(grown, stage) for stage in STAGES},
    )


Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


def _samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _mean_ms(grown: Samples, stage: str) -> float:
    total, count = (
        grown.get((f"seatrial_stage_seconds_{part}", (("stage", stage),)), 0.0) for part in ("sum", "count")
    )
    return total / count * 1000 if count else 0.0
