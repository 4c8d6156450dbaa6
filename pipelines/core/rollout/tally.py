"""Numbers counted in bins fine enough to tell their quantiles, however many there are."""

from dataclasses import dataclass, field

import numpy as np

from pipelines.core.rollout.sequential import rate

_SIZES = 1e-6 * 1.05 ** np.arange(614)
ENDS = np.concatenate((-_SIZES[::-1], _SIZES, [np.inf]))
"""Of the bins: 5 % wide from a millionth to 10 million, on either side of zero."""
STARTS = np.concatenate(([-np.inf], ENDS[:-1]))
ZERO = len(_SIZES)


@dataclass(frozen=True)
class Estimate:
    """A value that lies between two bounds, as far as they are known; at any look, not at one only."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass
class Tally:
    """Numbers of either sign. NaN is left out."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(len(ENDS), int))
    total: float = 0.0
    furthest: float = 0.0

    def add(self, values: np.ndarray) -> None:
        known = values[~np.isnan(values)]
        self.counts += np.bincount(np.searchsorted(ENDS, known), minlength=len(ENDS))
        self.total += float(known.sum())
        self.furthest = max(self.furthest, float(np.abs(known).max(initial=0.0)))

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def quantile(self, share: float, alpha: float) -> Estimate:
        """The value that a `share` of the numbers does not exceed, to the 5 % that a bin is wide.

        How many lie below the end of a bin is a count to which `sequential.rate` applies: Howard and Ramdas,
        "Sequential estimation of quantiles with applications to A/B testing and best-arm identification"
        (2022), section 3."""
        upto = self.counts.cumsum()
        if not upto[-1]:
            return Estimate(None)
        levels, level = np.unique(upto, return_inverse=True)
        shares = rate(levels, upto[-1], alpha / 2)
        may_be, must_be = np.asarray(shares.high)[level] >= share, np.asarray(shares.low)[level] >= share
        low = STARTS[np.argmax(may_be)]
        high = ENDS[np.argmax(must_be)] if must_be.any() else np.inf
        at = int(np.argmax(upto >= share * upto[-1]))
        middle = 0.0 if at == ZERO else (STARTS[at] + ENDS[at]) / 2
        return Estimate(_finite(middle), _finite(low), _finite(high))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
