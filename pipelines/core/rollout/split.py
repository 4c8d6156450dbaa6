"""Which release a user belongs to in an experiment, and how many users an experiment takes.

Kohavi, Tang and Xu, "Trustworthy Online Controlled Experiments" (2020), chapters 14 (users, not requests, are
assigned), 17 (sample sizes) and 21 (the split is tested). Envoy routes users by a hash of its own; this one
is for analysis, for tests and for choosing what a shadow mirrors.
"""

import hmac
import math
from statistics import NormalDist

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.observation import ArmName

BITS = 53
"""As many as a float in [0, 1) has."""


def place(user: str, salt: str) -> float:
    """Where a user stands in [0, 1): always there under one salt, and independently of it under another, so
    that the users of one experiment are spread evenly over the arms of the next."""
    digest = hmac.digest(salt.encode(), user.encode(errors="surrogatepass"), "sha256")
    return (int.from_bytes(digest[:8], "big") >> (64 - BITS)) / 2**BITS


def arm_of(user: str, salt: str, weight: float) -> ArmName:
    """The arm of a user while the canary has `weight` of all. As the weight rises, users join the canary and
    none leaves it."""
    return "canary" if place(user, salt) < weight else "stable"


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
