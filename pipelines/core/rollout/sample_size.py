"""How many users an experiment takes, before it starts.

Users are counted, not requests, since users are assigned to an arm: Kohavi, Tang and Xu, "Trustworthy Online
Controlled Experiments" (2020), chapters 14 and 17.
"""

import math
from statistics import NormalDist

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.guardrails import Metric
from pipelines.core.rollout.means import MIN_VALUES, deviation, reach
from pipelines.core.rollout.observation import Moments

MOST_USERS = 10**12


def users_for_rates(
    rate: float, change: float, weight: float = 0.5, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Users of both arms together that show a rate, such as 0.1, to have changed by `change`, such as -0.02,
    with probability `power`, in a two-sided test at `alpha`; the canary has `weight` of them.

    Normal approximation: Fleiss, Levin and Paik, "Statistical Methods for Rates and Proportions" (2003),
    chapter 4. It is for one look at the end: to find the same change with the same power, bounds that are
    watched took 4.8 times as many users in simulations. Raises SettingsInvalid."""
    changed = rate + change
    _require(0 < rate < 1, "rate", rate, "write a fraction such as 0.1")
    _require(0 <= changed <= 1, "change", change, f"{rate:g} can't change by so much")
    return _users(rate * (1 - rate), changed * (1 - changed), change, weight, alpha, power)


def users_for_means(
    deviation: float, change: float, weight: float = 0.5, alpha: float = 0.05, power: float = 0.8
) -> int:
    """The same for the mean of a value with this standard deviation, in the unit of `change`.

    Normal approximation: van Belle, "Statistical Rules of Thumb" (2008), section 2.1, of which 16 σ² / δ² an
    arm is the rule. Raises SettingsInvalid."""
    _require(0 < deviation < math.inf, "deviation", deviation, "write a standard deviation above 0")
    return _users(deviation**2, deviation**2, change, weight, alpha, power)


def users_watched(
    deviation: float, change: float, weight: float = 0.5, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Like `users_for_means`, for an interval that is watched: so many that it leaves out zero, by then, with
    probability `power`. Of a rate, the deviation is √(rate · (1 - rate)). Raises SettingsInvalid."""
    users_for_means(deviation, change, weight, alpha, power)  # refuses what makes no sense
    certainty, both = NormalDist().inv_cdf(power), weight * (1 - weight)

    def shows(users: int) -> bool:
        values = users * both
        return (reach(values, alpha / 2) + certainty / math.sqrt(values)) * deviation <= abs(change)

    fewest, most = math.ceil(MIN_VALUES / min(weight, 1 - weight)), MOST_USERS
    while fewest < most:
        middle = (fewest + most) // 2
        fewest, most = (fewest, middle) if shows(middle) else (middle + 1, most)
    return fewest


def users_for_metric(metric: Metric, past: Moments | None, weight: float, alpha: float) -> int | None:
    """Users that are enough to prove, with probability 80 %, that a metric lost no more than its margin, if
    it lost nothing: by a bound that is watched and fails to hold with probability `alpha` at most.

    The deviation is that of the `past`, or else the most that the metric's limits leave. None where neither
    is known, or nothing may be lost."""
    low, high = metric.between or (0.0, 0.0)
    spread = (high - low) / 2
    if past and past.count >= MIN_VALUES:
        spread = deviation(past) or spread
    return users_watched(spread, metric.margin, weight, 2 * alpha) if spread and metric.margin else None


def users_to_show(
    disagreement: float, rate: float, weight: float = 0.5, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Users that an A/B takes to show the largest effect that is possible on a rate of outcomes, such as 0.1,
    where decisions differ in a share of requests; None where none do.

    The bound: where both decide alike, the outcome can't depend on which of them was asked, so the rate
    changes by at most the disagreement. A smaller effect takes more users."""
    changes = [min(disagreement, 1 - rate), -min(disagreement, rate)]
    largest = max(abs(change) for change in changes)
    if largest <= 0:
        return None
    possible = [change for change in changes if abs(change) == largest]
    return max(users_for_rates(rate, change, weight, alpha, power) for change in possible)


def _users(stable: float, canary: float, change: float, weight: float, alpha: float, power: float) -> int:
    """From the variances of one user's value in each arm."""
    _require(math.isfinite(change) and change != 0, "change", change, "write the least change that matters")
    for name, value in {"weight": weight, "alpha": alpha, "power": power}.items():
        _require(0 < value < 1, name, value, "write a fraction above 0 and below 1")
    certainty = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)
    variance = stable / (1 - weight) + canary / weight
    return math.ceil(certainty**2 * variance / change**2)


def _require(holds: bool, setting: str, value: object, mend: str) -> None:
    if not holds:
        raise SettingsInvalid(setting, value, mend)
