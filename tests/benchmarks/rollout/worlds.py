"""Two releases and their traffic, simulated second by second; counts are cumulated over the seconds."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.stats import beta, lognorm

from pipelines.core.rollout.observation import Arm, Moments, Observation
from pipelines.core.rollout.quantiles import ENDS_MS

ENDS = (*(end for end in ENDS_MS if 5 < end < 500), np.inf)
ANSWERS = 10
CONVERTED = "converted"
BURSTS, BURST_ERRORS, QUIET_ERRORS = 0.02, 0.3, 0.001


@dataclass(frozen=True)
class Release:
    """The share of requests that fail; how many times as long they take as a median of 20 ms, log-normal
    with a spread of 0.6; the second parameter of the beta distribution of the answers; and the share
    that converts."""

    errors: float = 0.002
    slower: float = 1.0
    answers: float = 5.0
    converts: float = 0.2

    @cache  # noqa: B019 -- releases are few and last as long as the program
    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Of latencies and of answers, by bin."""
        late = lognorm.cdf(ENDS, 0.6, scale=20 * self.slower)
        upto = beta.cdf(np.linspace(0, 1, ANSWERS + 1), 2, self.answers)
        return np.diff(late, prepend=0), np.diff(upto)


GOOD = Release()
BAD = {
    "nothing but errors": replace(GOOD, errors=1.0),
    "5 % errors": replace(GOOD, errors=0.05),
    "3x latency": replace(GOOD, slower=3.0),
    "shifted answers": replace(GOOD, answers=3.0),
}


@dataclass(frozen=True)
class Counts:
    """Of one release, by run and second, since the step began: requests, errors, latencies and answers by
    bin, and conversions."""

    requests: np.ndarray
    errors: np.ndarray
    latencies: np.ndarray
    answers: np.ndarray
    converted: np.ndarray

    def arm(self, run: int, second: int) -> Arm:
        at = run, second
        converted = Moments(int(self.requests[at]), int(self.converted[at]), int(self.converted[at]))
        latencies = list(zip(ENDS, self.latencies[at].cumsum().tolist(), strict=True))
        return Arm(
            int(self.requests[at]),
            int(self.errors[at]),
            latencies,
            self.answers[at].tolist(),
            {CONVERTED: converted},
        )


@dataclass(frozen=True)
class World:
    """Requests arrive at random, `rps` of them a second on average, and each takes to the canary with a
    chance of `share`. With `bursts`, now and then a second makes many requests to either release
    fail."""

    canary: Release = GOOD
    rps: float = 100.0
    share: float = 0.1
    bursts: bool = False

    def simulate(self, rng: np.random.Generator, runs: int, seconds: int) -> tuple[Counts, Counts]:
        """What is counted of stable and of the canary."""
        burst = rng.random((runs, seconds)) < BURSTS
        return (
            self._counts(rng, GOOD, 1 - self.share, burst),
            self._counts(rng, self.canary, self.share, burst),
        )

    def _counts(self, rng: np.random.Generator, release: Release, share: float, burst: np.ndarray) -> Counts:
        requests = rng.poisson(self.rps * share, burst.shape)
        errors = np.where(burst, BURST_ERRORS, QUIET_ERRORS) if self.bursts else release.errors
        late, answers = release.shares()
        drawn = (
            requests,
            rng.binomial(requests, errors),
            rng.multinomial(requests, late),
            rng.multinomial(requests, answers),
            rng.binomial(requests, release.converts),
        )
        return Counts(*(counted.cumsum(1) for counted in drawn))

    def look(self, stable: Counts, canary: Counts, run: int, second: int) -> Observation:
        return Observation(second + 1.0, self.share, stable.arm(run, second), canary.arm(run, second))
