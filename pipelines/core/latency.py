"""What is offered in a load test and what came of it. Percentiles are exact, from every raw sample.

A latency counts from the moment the request was meant to be sent. A generator that waits for slow answers
before it sends on would otherwise hide the very stalls it should find ("coordinated omission", Tene, "How
NOT to Measure Latency", 2013).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Arrivals = Literal["poisson", "constant"]

REFUSED = (429, 503)
"""The statuses of a service that says no rather than too late."""
MAX_LAG_SHARE = 0.5
"""Where the generator's own lag (p99) is a larger share of the p99 limit than this, the run says nothing."""
BLAMELESS_LAG_SHARE = 0.1
"""Up to this share, a p99 above the limit is the service's fault. In between only a pass stands: as latency
counts from the intended time, lag makes the service look slower, never faster."""
LONGEST_MS, DIGITS = 3_600_000, 3
"""Of histograms: an hour, and three significant digits."""
Z95 = 1.959964


@dataclass(frozen=True)
class Offer:
    """One stage of load: requests at a mean rate, or at one that grows evenly to `to_rps`.

    With `clients`, so many may wait for answers at once, as a router in front allows: what is due while all
    of them wait is not sent, and a latency counts from when it was. None: every request is sent, and its
    latency counts from when it was due.
    """

    name: str
    rate_rps: float
    seconds: float
    to_rps: float | None = None
    arrivals: Arrivals = "poisson"
    clients: int | None = None

    @property
    def mean_rps(self) -> float:
        return self.rate_rps if self.to_rps is None else (self.rate_rps + self.to_rps) / 2

    def times(self, seed: int) -> np.ndarray:
        """When to send, in ascending seconds from the start: the same for a seed, never empty.

        A Poisson process whose rate changes is one of rate 1 whose time runs as the expected number of
        requests grows (Çinlar, "Introduction to Stochastic Processes", 1975); a constant one is one request
        whenever that number is whole.
        """
        expected = self.mean_rps * self.seconds
        if self.arrivals == "constant":
            counts = np.arange(max(1, round(expected)), dtype=float)
        else:
            rng = np.random.default_rng(seed)
            counts = np.cumsum(rng.exponential(size=int(expected + 10 * np.sqrt(expected)) + 20))
            counts = counts[: max(1, int(np.searchsorted(counts, expected)))]
        return self._when(np.minimum(counts, expected))

    def _when(self, counts: np.ndarray) -> np.ndarray:
        """The seconds by which so many requests are expected."""
        slope = 0.0 if self.to_rps is None else (self.to_rps - self.rate_rps) / self.seconds
        if not slope:
            return counts / self.rate_rps
        return (np.sqrt(self.rate_rps**2 + 2 * slope * counts) - self.rate_rps) / slope


@dataclass(frozen=True)
class Samples:
    """The raw samples of one stage, one entry a request; times are seconds since the stage began. `status`
    is that of HTTP, whatever the wire; 0 where there was no answer."""

    intended_s: np.ndarray
    sent_s: np.ndarray
    latency_ms: np.ndarray
    status: np.ndarray

    @property
    def ok(self) -> np.ndarray:
        """Which requests were answered."""
        return (self.status >= 200) & (self.status < 300)

    @property
    def refused(self) -> np.ndarray:
        """Which were told to come back later."""
        return np.isin(self.status, REFUSED)


@dataclass(frozen=True)
class Stage:
    """The figures of one stage. Latencies are of the answered requests; only where none was answered, of all.
    `requests` is less than `planned` when the service was gone.

    p99_low_ms, p99_high_ms   the 95 % interval of the p99
    refused, refused_p99_ms   requests told to come back later, which are errors too, and how fast that was
    lag_p99_ms, cpu_us        of the generator: how late it sent, and the CPU time of one request
    """

    name: str
    rate_rps: float
    seconds: float
    planned: int
    requests: int
    errors: int
    refused: int
    p50_ms: float
    p99_ms: float
    p99_low_ms: float
    p99_high_ms: float
    max_ms: float
    refused_p99_ms: float
    throughput_rps: float
    lag_p99_ms: float
    cpu_us: float = 0.0

    @property
    def error_rate(self) -> float:
        """The share of the planned requests that failed or were never sent."""
        return 1 - (self.requests - self.errors) / self.planned


def summarise(offer: Offer, planned: int, samples: Samples, cpu_seconds: float = 0.0) -> Stage:
    """The figures of one stage; `cpu_seconds` were the generator's."""
    ok, refused = samples.ok, samples.refused
    latency = np.sort(samples.latency_ms[ok] if ok.any() else samples.latency_ms)
    low, high = quantile_interval(latency, 0.99)
    finished_s = float(np.max(samples.intended_s + samples.latency_ms / 1000, initial=0))
    return Stage(
        name=offer.name,
        rate_rps=offer.mean_rps,
        seconds=offer.seconds,
        planned=planned,
        requests=len(ok),
        errors=int((~ok).sum()),
        refused=int(refused.sum()),
        p50_ms=percentile(latency, 50),
        p99_ms=percentile(latency, 99),
        p99_low_ms=low,
        p99_high_ms=high,
        max_ms=percentile(latency, 100),
        refused_p99_ms=percentile(samples.latency_ms[refused], 99),
        throughput_rps=float(ok.sum()) / finished_s if finished_s else 0.0,
        lag_p99_ms=percentile((samples.sent_s - samples.intended_s) * 1000, 99),
        cpu_us=cpu_seconds * 1e6 / len(ok) if len(ok) else 0.0,
    )


def percentile(values: np.ndarray, percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed; 0 when there are none."""
    return float(np.percentile(values, percent, method="inverted_cdf")) if len(values) else 0.0


def quantile_interval(ascending: np.ndarray, share: float) -> tuple[float, float]:
    """The 95 % interval of a quantile from sorted values, whatever their distribution: the order statistics
    whose ranks the binomial allows (Conover, "Practical Nonparametric Statistics", 1999, section 3.2), by its
    normal approximation. The high end is infinite where there are too few values to have one."""
    count = len(ascending)
    if not count:
        return 0.0, 0.0
    spread = Z95 * np.sqrt(count * share * (1 - share))
    low, high = int(np.floor(count * share - spread)), int(np.ceil(count * share + spread))
    return float(ascending[max(0, low - 1)]), float(ascending[high - 1]) if high <= count else float("inf")


def fell_behind(stage: Stage, p99_limit_ms: float) -> str | None:
    """Why the run says nothing about the service, or None when its figures stand."""
    share = BLAMELESS_LAG_SHARE if stage.p99_ms > p99_limit_ms else MAX_LAG_SHARE
    if stage.lag_p99_ms <= share * p99_limit_ms:
        return None
    return (
        f"at {stage.rate_rps:g}/s the generator itself was {stage.lag_p99_ms:.1f} ms late (p99), too much to "
        f"judge a limit of {p99_limit_ms:g} ms"
    )


def histogram(samples: Samples) -> bytes:
    """The answered requests' latencies in µs as an HdrHistogram, in its compressed, portable form (version 2,
    base64), which its tools in any language can read, add up and plot."""
    from hdrh.histogram import HdrHistogram

    counts = HdrHistogram(1, LONGEST_MS * 1000, DIGITS)
    micros, repeats = np.unique((samples.latency_ms[samples.ok] * 1000).round(), return_counts=True)
    for value, repeat in zip(micros, repeats, strict=True):
        counts.record_value(max(1, int(value)), int(repeat))
    return counts.encode()
