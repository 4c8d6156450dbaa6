"""What a light stage of load teaches a profile: a simulation of the same requests says what the model and its
queue take, the rest is what lies around them."""

from dataclasses import replace

import numpy as np

from bentos.manifest import Plan
from pipelines.core.capacity.profile import Profile
from pipelines.core.capacity.simulation import Run, drawn, replay
from pipelines.core.latency import Samples

POINTS = 401
STEPS, STRIDE = 60, 0.5
SEED = 0
DRAWS = 20_000


def calibrated(
    profile: Profile, plan: Plan, samples: Samples, service_cpu_us: float | None = None
) -> Profile:
    """The profile with `extra_ms`; and with `request_us`, where the CPU time of a request in all processes of
    the service was measured. `samples` are of a stage light enough to be answered whole.

    CPU time beyond what the profile says is put down to requests and model in proportion: both are slower
    with caches that others have used. What is left of two large numbers would say little of a small one.
    """
    bare = replace(profile, extra_ms=())
    if service_cpu_us is not None:
        known_us = profile.request_us + _engine_us(replay(plan, bare, samples.intended_s, SEED), plan)
        bare = replace(bare, request_us=profile.request_us * service_cpu_us / known_us)
    found = replay(plan, bare, samples.intended_s, SEED).samples
    return replace(bare, extra_ms=_between(found.latency_ms[found.ok], samples.latency_ms[samples.ok]))


def _engine_us(run: Run, plan: Plan) -> float:
    """CPU time of the engines for one request."""
    samples = run.samples
    finished_s = float(np.max(samples.intended_s + samples.latency_ms / 1000))
    seconds = run.busy * plan.workers * plan.replicas * finished_s
    return seconds * plan.threads * 1e6 / len(samples.status)


def _between(simulated: np.ndarray, measured: np.ndarray) -> tuple[float, ...]:
    """Quantiles of what, drawn anew for each of the simulated latencies, makes them distributed as measured.

    Found by fixed-point iteration on the quantile function, kept positive and ascending; the plain difference
    of the quantiles would be right only if slow requests were slow for both reasons at once.
    """
    rng, shares = np.random.default_rng(SEED), np.linspace(0, 1, POINTS)
    base, uniform = rng.choice(simulated, DRAWS), rng.random(DRAWS)
    wanted, extra = np.quantile(measured, shares), np.zeros(POINTS)
    for _ in range(STEPS):
        off = wanted - np.quantile(base + drawn(extra, uniform), shares)
        extra = np.maximum.accumulate(np.maximum(0.0, extra + STRIDE * off))
    return tuple(extra.round(6).tolist())
