"""A load test as it is kept, with figures that a service of a known capacity could have had."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from bentos.manifest import Plan
from pipelines.core.capacity.course import PEAKS, SOAK_PARTS
from pipelines.core.capacity.gate import BOUNDED, NO_LEAK, WITHIN_SLO
from pipelines.core.capacity.profile import Profile
from pipelines.core.capacity.proof import Load, Service, Step, Trial
from pipelines.core.capacity.proposal import Proposal, Tried
from pipelines.core.latency import Offer, Samples, histogram, summarise
from pipelines.core.verdict import Outcome, Verdict

PEAK_RPS, P99_MS, DEADLINE_MS, CORES = 200.0, 50.0, 400.0, 2
CLIMB = (0.6, 0.85, 1, 1.2)
"""The rates of the climb, of the knee."""
GATES = {
    WITHIN_SLO: "p99 11.2 ms at 400/s (2x peak), limit 50 ms; 0 of 3000 requests failed",
    BOUNDED: "offered 3,400/s it answered 1,690/s with a p99 of 388 ms",
    NO_LEAK: "+1.0 MiB and +0 descriptors over 6,800 requests",
}
REASONS = (
    "2 workers with 1 thread each should hold 400/s",
    "batches of up to 32 rows answer the most a second",
)
ADVICE = ("promise 80 ms", "release a faster rung")


def offers(knee_rps: float, seconds: float, to_its_end: bool) -> list[tuple[str, Offer]]:
    """The stages of a load test, as (kind, offer); only the candidate goes to its end."""
    climb = [by * knee_rps for by in CLIMB]
    end = [("overload", Offer("overload", 2 * knee_rps, seconds))]
    end += [("soak", Offer(f"soak {part + 1}", knee_rps / 2, seconds)) for part in range(SOAK_PARTS)]
    return [
        *(("peak", Offer(name, by * PEAK_RPS, seconds)) for name, by in PEAKS),
        *(("climb", Offer(f"{rate:,.0f}/s", rate, seconds)) for rate in climb),
        *(end if to_its_end else []),
    ]


def samples_of(offer: Offer, capacity_rps: float, rng: np.random.Generator) -> Samples:
    """Waiting grows towards the capacity; beyond it, what could not be answered in time is refused."""
    at, load = offer.times(int(rng.integers(1 << 30))), offer.rate_rps / capacity_rps
    waited = rng.exponential(min(load, 0.99) ** 4 / (1 - min(load, 0.99)), len(at))
    if load > 1:
        waited = np.minimum(DEADLINE_MS, 1000 * (load - 1) * at) * rng.uniform(0.8, 0.97, len(at))
    refused = rng.random(len(at)) < np.where(waited > DEADLINE_MS / 2, max(0, 1 - 1 / load), 0)
    answered_ms = waited + rng.lognormal(0.9, 0.35, len(at))
    latency = np.where(refused, 0.3 + rng.gamma(2, 0.4, len(at)), answered_ms)
    return Samples(at, at + rng.exponential(5e-5, len(at)), latency, np.where(refused, 429, 200))


def service_of(offer: Offer, capacity_rps: float, place: int, rng: np.random.Generator) -> Service:
    load = min(0.97, offer.rate_rps / capacity_rps)
    sizes = np.minimum(64, rng.geometric(1 - load, 3000))
    ends = [float(2**power) for power in range(15)]
    batches = {str(end): int((sizes <= end).sum()) for end in ends} | {"+Inf": len(sizes)}
    queue_ms = 0.2 + 0.3 / (1 - load)
    parts = {"parse": 0.05, "queue": queue_ms, "assemble": 0.02, "model": 1 + load, "respond": 0.04}
    return Service(900 - 300 * load, 180 + place / 4 + rng.random(), 41 + place % 2, batches, parts)


def make_trial(role: str, knee_rps: float, seconds: float) -> tuple[Trial, pd.DataFrame]:
    rng, is_candidate = np.random.default_rng(len(role)), role == "candidate"
    steps, kept = [], []
    for place, (kind, offer) in enumerate(offers(knee_rps, seconds, is_candidate)):
        found = samples_of(offer, 1.15 * knee_rps, rng)
        stage = summarise(offer, len(found.status), found)
        service = service_of(offer, 1.15 * knee_rps, place, rng)
        steps.append(Step(kind, stage, service, histogram(found).decode()))
        kept.append(pd.DataFrame({"release": role, "stage": offer.name, **asdict(found)}))
    version = "3" if is_candidate else "2"
    trial = Trial(version, f"{version}-abcdef", "int8_static", CORES, tuple(steps), knee_rps, True)
    return trial, pd.concat(kept, ignore_index=True)


def make_load(
    production: bool = True, price: float | None = 0.04, knee_rps: float = 1700, seconds: float = 2
) -> tuple[Load, pd.DataFrame]:
    """A load test and its samples. The version in production, if there is one, carries a third less."""
    candidate, samples = make_trial("candidate", knee_rps, seconds)
    load = Load(P99_MS, 0.001, PEAK_RPS, DEADLINE_MS, price, 30 * seconds, 2.0, candidate)
    if not production:
        return load, samples
    before, others = make_trial("production", knee_rps / 1.5, seconds)
    both = pd.concat([samples, others], ignore_index=True)
    return Load(P99_MS, 0.001, PEAK_RPS, DEADLINE_MS, price, 48 * seconds, 4.0, candidate, before), both


def write_load(folder: Path, load: Load, samples: pd.DataFrame, outcome: Outcome = "pass") -> None:
    """As the asset leaves it, without a proposal."""
    folder.mkdir(parents=True, exist_ok=True)
    load.save(folder)
    samples.to_parquet(folder / "samples.parquet")
    costs = {1: tuple((rows, 0, 0.3 + 0.02 * rows) for rows in (1, 2, 4, 8, 16, 32, 64))}
    Profile("ab" * 32, "AMD EPYC 7763", 8, "cpu", costs, {1: 1.2}, request_us=140).save(folder)
    for gate, says in GATES.items():
        Verdict(gate, outcome, "ab" * 32, (says,)).save(folder)


def write_proposal(folder: Path, met: bool = True) -> None:
    tried = tuple(
        Tried(workers, 1, 1, size, (), workers, 440, 80 / workers, 0.0, 400, 1.4, 0.8 / workers, workers > 1)
        for workers in (1, 2)
        for size in (8, 32)
    )
    plan = Plan(max_batch_size=32, max_latency_ms=DEADLINE_MS, workers=2)
    Proposal(plan, met, tried, REASONS, () if met else ADVICE).save(folder)
