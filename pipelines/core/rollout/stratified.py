"""An A/B analysed by users: how much a metric differs between two releases, within groups of users that are
alike and over all of them, by intervals that may be watched.

What a user is worth differs more between strata, such as carriers or days, than within: taking the
difference stratum by stratum leaves that out, and makes up for arms that got unequal shares of a stratum
(post-stratification: Miratrix, Sekhon and Yu, "Adjusting treatment effect estimates by post-stratification
in randomized experiments", 2013). It is a mean of what each user contributes plus a vanishing rest, so the
asymptotic confidence sequence of a mean applies (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, 2024,
section 4: effects in randomized experiments). Users are taken to be independent, and each value complete.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.means import MIN_VALUES, reach
from pipelines.core.rollout.sequential import rate
from pipelines.core.rollout.tally import Estimate

COLUMNS = ("user", "arm", "value")
OTHERS = "all others"
"""Strata with fewer than MIN_VALUES users in an arm, together."""


@dataclass(frozen=True)
class Stratum:
    """Users that are alike: how many of each arm, their means, the canary's less stable's, and the share of
    them that the canary got."""

    name: str
    stable: int
    canary: int
    stable_mean: float | None
    canary_mean: float | None
    difference: Estimate
    share: Estimate

    def is_split(self, weight: float) -> bool:
        """Whether the canary's share may be what was planned."""
        low, high = self.share.low, self.share.high
        return low is None or high is None or low <= weight <= high


@dataclass(frozen=True)
class Analysis:
    """A metric by users.

    weight       the planned share of users of the canary
    users        who were counted
    in_both      left out, as they met both releases; sticky routing leaves none
    overall      the difference over all users, of the strata in the shares that they have
    unstratified the same without strata
    needed       users that are enough, as reckoned before the start; None: not reckoned
    strata       their differences hold together at `alpha`, as do their shares; `overall` does by itself
    """

    metric: str
    weight: float
    users: int
    in_both: int
    overall: Estimate
    unstratified: Estimate
    strata: tuple[Stratum, ...]
    alpha: float
    needed: int | None = None

    @property
    def off_plan(self) -> tuple[Stratum, ...]:
        """Strata that were not split as planned: a sign that the arms can't be compared (Kohavi, Tang and
        Xu, 2020, chapter 21)."""
        return tuple(each for each in self.strata if not each.is_split(self.weight))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Analysis":
        two = {name: Estimate(**found[name]) for name in ("overall", "unstratified")}
        inner = [
            {**each, "difference": Estimate(**each["difference"]), "share": Estimate(**each["share"])}
            for each in found["strata"]
        ]
        return cls(**{**found, **two, "strata": tuple(Stratum(**each) for each in inner)})


def stratified(
    users: pd.DataFrame, metric: str, weight: float = 0.5, alpha: float = 0.05, needed: int | None = None
) -> Analysis:
    """From a line for each user and arm: user, arm ("stable" or "canary"), value and, where there are strata,
    stratum, which must not depend on the arm. Users without a value are not counted.

    Raises SettingsInvalid where a column is missing or the weight is none."""
    missing = [name for name in COLUMNS if name not in users]
    if missing:
        raise SettingsInvalid("users", list(users.columns), f"it takes a column {missing[0]}")
    if not 0 < weight < 1:
        raise SettingsInvalid("weight", weight, "write a fraction such as 0.5")
    twice = users["user"].duplicated(keep=False)
    counted = users.loc[~twice & users["value"].notna()]
    one = pd.Series("all", counted.index)
    names = _pooled(counted["arm"], counted["stratum"].astype(str) if "stratum" in counted else one)
    cells, plain = _cells(counted, names), _cells(counted, one)
    return Analysis(
        metric,
        weight,
        len(counted),
        users.loc[twice, "user"].nunique(),
        _difference(cells, alpha),
        _difference(plain, alpha),
        tuple(_stratum(str(name), row, alpha / len(cells)) for name, row in cells.iterrows()),
        alpha,
        needed,
    )


def _pooled(arms: pd.Series, strata: pd.Series) -> pd.Series:
    """The strata, small ones as one; where that is small too, the smallest of the others go with it."""
    counts = pd.crosstab(strata, arms).reindex(columns=["stable", "canary"], fill_value=0)
    least = counts.min(axis=1).sort_values(kind="stable")
    counts, together = counts.loc[least.index], int((least < MIN_VALUES).sum())
    while 0 < together < len(counts) and counts.iloc[:together].sum().min() < MIN_VALUES:
        together += 1
    return strata.where(~strata.isin(counts.index[:together]), OTHERS)


def _cells(users: pd.DataFrame, names: pd.Series) -> pd.DataFrame:
    """A line a stratum: count, mean and var by arm."""
    found = users.groupby([names.rename("name"), users["arm"]])["value"].agg(["count", "mean", "var"])
    columns = pd.MultiIndex.from_product([["count", "mean", "var"], ["stable", "canary"]])
    cells = pd.DataFrame(found.unstack("arm"), columns=columns)
    cells["count"] = cells["count"].fillna(0)
    return cells


def _difference(cells: pd.DataFrame, alpha: float) -> Estimate:
    """Of the strata, in the shares that they have of all users."""
    counts = cells["count"]
    if cells.empty or counts.to_numpy().min() < MIN_VALUES:
        return Estimate(None)
    shares = counts.sum(axis=1) / counts.to_numpy().sum()
    moved = cells["mean"]["canary"] - cells["mean"]["stable"]
    found = float((shares * moved).sum())
    # The larger variance for both arms, as in `means`: a few values that were alike prove nothing.
    within = (shares**2 * cells["var"].max(axis=1) * (1 / counts).sum(axis=1)).sum()
    between = (shares * (moved - found) ** 2).sum() / counts.to_numpy().sum()
    values = 1 / (1 / counts.sum()).sum()
    bound = float(np.sqrt((within + between) * values)) * reach(values, alpha / 2)
    return Estimate(found, found - bound, found + bound)


def _stratum(name: str, cell: pd.Series, alpha: float) -> Stratum:
    stable, canary = (int(cell["count", arm]) for arm in ("stable", "canary"))
    means = [
        None if np.isnan(cell["mean", arm]) else float(cell["mean", arm]) for arm in ("stable", "canary")
    ]
    share = rate(canary, stable + canary, alpha / 2)
    return Stratum(
        name,
        stable,
        canary,
        means[0],
        means[1],
        _difference(cell.to_frame().T, alpha),
        Estimate(canary / (stable + canary), float(share.low), float(share.high)),
    )
