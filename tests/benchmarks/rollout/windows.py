"""The policy that most tools have, such as Argo Rollouts and Flagger: the figures of each interval are held
against fixed thresholds, and the third failure of a figure rolls back."""

import numpy as np

from tests.benchmarks.rollout.worlds import ENDS, Counts

INTERVAL_S, FAILURES = 60, 3
MAX_INCREASE, MAX_RATIO, MAX_DISTANCE = 0.01, 1.5, 0.1
QUANTILE = 0.99


def rolled_back(stable: Counts, canary: Counts) -> np.ndarray:
    """In which second each run is rolled back, (runs,); one more than there are where it is not."""
    seconds = stable.requests.shape[1]
    checks = np.arange(INTERVAL_S, seconds + 1, INTERVAL_S) - 1
    one, other = _windows(stable, checks), _windows(canary, checks)
    failed = np.stack(
        [
            other.errors / other.requests - one.errors / one.requests > MAX_INCREASE,
            _quantile(other.latencies) > MAX_RATIO * _quantile(one.latencies),
            np.abs(_upto(other.answers) - _upto(one.answers)).max(-1) > MAX_DISTANCE,
        ]
    )
    out = (failed.cumsum(2) >= FAILURES).any(0)
    return np.where(out.any(1), checks[out.argmax(1)] + 1, seconds + 1)


def _windows(counts: Counts, checks: np.ndarray) -> Counts:
    return Counts(*(np.diff(counted[:, checks], axis=1, prepend=0) for counted in vars(counts).values()))


def _upto(counts: np.ndarray) -> np.ndarray:
    return counts.cumsum(-1) / counts.sum(-1, keepdims=True)


def _quantile(counts: np.ndarray) -> np.ndarray:
    """The middle of the bin on a log scale, as estimates from histograms have it."""
    middles = np.sqrt(np.array(ENDS) * np.array((5.0, *ENDS[:-1])))
    return middles[(_upto(counts) >= QUANTILE).argmax(-1)]
