"""What a load test measured and whether it is good enough. Percentiles are exact, from every raw sample.

A latency counts from the moment the request was meant to be sent. A generator that waits for slow answers
before it sends on would otherwise hide the very stalls it should find.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.core.errors import LoadTestInvalid
from pipelines.core.verdict import Verdict, judge

MAX_LAG_SHARE = 0.5
"""Where the generator's own lag (p99) is a larger share of the p99 limit than this, the run says nothing."""
BLAMELESS_LAG_SHARE = 0.1
"""Up to this share, a p99 above the limit is the service's fault. In between only a pass stands: as latency
counts from the intended time, lag makes the service look slower, never faster."""


@dataclass(frozen=True)
class Stage:
    """One stage of constant mean rate. Latencies are of the answered requests (status 2xx); only where none
    was answered, of the failed ones. `requests` is less than `planned` when the service was gone."""

    name: str
    rate_rps: float
    seconds: float
    planned: int
    requests: int
    errors: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    throughput_rps: float
    lag_p99_ms: float

    @property
    def error_rate(self) -> float:
        """The share of the planned requests that failed or were never sent."""
        return 1 - (self.requests - self.errors) / self.planned


@dataclass(frozen=True)
class Samples:
    """The raw samples of one stage, one entry a request; times are seconds since the stage began."""

    intended_s: np.ndarray
    sent_s: np.ndarray
    latency_ms: np.ndarray
    status: np.ndarray


def arrivals(rate_rps: float, seconds: float, seed: int) -> np.ndarray:
    """When to send, in seconds from the start: a Poisson process, the same for a seed, never empty."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate_rps, size=int(2 * rate_rps * seconds) + 100)
    times = np.cumsum(gaps)
    return times[: max(1, int(np.searchsorted(times, seconds)))]


def summarise(name: str, rate_rps: float, seconds: float, planned: int, samples: Samples) -> Stage:
    """The figures of one stage."""
    ok = (samples.status >= 200) & (samples.status < 300)
    latency = samples.latency_ms[ok] if ok.any() else samples.latency_ms
    lag_ms = (samples.sent_s - samples.intended_s) * 1000
    finished_s = float(np.max(samples.intended_s + samples.latency_ms / 1000, initial=0))
    return Stage(
        name=name,
        rate_rps=rate_rps,
        seconds=seconds,
        planned=planned,
        requests=len(ok),
        errors=int((~ok).sum()),
        p50_ms=percentile(latency, 50),
        p99_ms=percentile(latency, 99),
        max_ms=percentile(latency, 100),
        throughput_rps=float(ok.sum()) / finished_s if finished_s else 0.0,
        lag_p99_ms=percentile(lag_ms, 99),
    )


def percentile(values: np.ndarray, percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed; 0 when there are none."""
    return float(np.percentile(values, percent, method="inverted_cdf")) if len(values) else 0.0


def judge_load(stages: Sequence[Stage], p99_limit_ms: float, max_error_rate: float, subject: str) -> Verdict:
    """Whether every stage kept the promise. Raises LoadTestInvalid when the generator fell behind."""
    if void := fell_behind(stages, p99_limit_ms):
        raise LoadTestInvalid(void)
    failures = [reason for stage in stages for reason in _failures(stage, p99_limit_ms, max_error_rate)]
    worst = max(stages, key=lambda stage: stage.p99_ms)
    failed, sent = (sum(getattr(stage, count) for stage in stages) for count in ("errors", "requests"))
    praise = (
        f"p99 {worst.p99_ms:.1f} ms at {worst.rate_rps:g}/s ({worst.name}), limit {p99_limit_ms:g} ms; "
        f"{failed} of {sent} requests failed"
    )
    numbers = {f"p99_ms {stage.name}": stage.p99_ms for stage in stages}
    numbers |= {f"error_rate {stage.name}": stage.error_rate for stage in stages}
    return judge("within_slo", subject, failures, praise, **numbers)


def fell_behind(stages: Sequence[Stage], p99_limit_ms: float) -> str | None:
    """Why the run says nothing about the service, or None when its figures stand."""
    for stage in stages:
        share = BLAMELESS_LAG_SHARE if stage.p99_ms > p99_limit_ms else MAX_LAG_SHARE
        if stage.lag_p99_ms > share * p99_limit_ms:
            return (
                f"at {stage.rate_rps:g}/s the generator itself was {stage.lag_p99_ms:.1f} ms late (p99), too "
                f"much to judge a limit of {p99_limit_ms:g} ms"
            )
    return None


def _failures(stage: Stage, p99_limit_ms: float, max_error_rate: float) -> list[str]:
    at, failures = f"at {stage.rate_rps:g}/s ({stage.name})", []
    if stage.p99_ms > p99_limit_ms:
        failures.append(f"p99 is {stage.p99_ms:.1f} ms {at}, the limit {p99_limit_ms:g} ms")
    if stage.error_rate > max_error_rate:
        lost = stage.planned - stage.requests
        failures.append(
            f"{stage.errors + lost} of {stage.planned} requests failed {at} ({stage.error_rate:.2%}), "
            f"the limit is {max_error_rate:.2%}" + (f"; {lost} could not be sent" if lost else "")
        )
    return failures
