"""How many users an experiment takes before it starts: from what two releases disagree on, or from what is
known of users so far."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import pandas as pd

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.means import MIN_VALUES, SHARPEST_AT
from pipelines.core.rollout.split import users_for_means, users_for_rates

MOST_USERS = 10**12


@dataclass(frozen=True)
class Baseline:
    """What is known of users before an experiment: their number, the mean of their values, its standard
    deviation, and what is left of that within a stratum."""

    users: int
    mean: float
    deviation: float
    within: float


def baseline(users: pd.DataFrame) -> Baseline:
    """From one line a user, with `value` and, where there are strata, `stratum`. Strata take away what lies
    between them: Miratrix, Sekhon and Yu (2013), section 2. Raises SettingsInvalid without two users."""
    known = users.dropna(subset=["value"])
    if len(known) < 2:
        raise SettingsInvalid("users", len(known), "give the values of two users at least")
    values = known["value"].astype(float)
    between = values.groupby(known["stratum"]).transform("mean") if "stratum" in known else values.mean()
    return Baseline(len(known), float(values.mean()), float(values.std()), float((values - between).std()))


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


def users_to_show_mean(
    disagreement: float,
    deviation: float,
    most: float,
    weight: float = 0.5,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int | None:
    """The same for the mean of a value that one decision changes by `most`, in its unit."""
    change = disagreement * most
    return users_for_means(deviation, change, weight, alpha, power) if change else None


def reach(values: float, alpha: float) -> float:
    """How far a bound that may be watched lies from a mean, in standard deviations of one value; sharpest at
    SHARPEST_AT values.

    One side of the asymptotic confidence sequence: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
    "Time-uniform central limit theory and asymptotic confidence sequences" (2024)."""
    tuned = values * (math.log(1 / alpha**2) + math.log(1 + math.log(1 / alpha**2))) / SHARPEST_AT
    return math.sqrt(2 * (tuned + 1) / (tuned * values) * math.log(1 + math.sqrt(tuned + 1) / (2 * alpha)))


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
