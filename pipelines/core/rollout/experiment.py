"""What an A/B has shown, metric by metric: in words, as a table, as a file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from pipelines.core.rollout.stratified import Analysis

FILE = "ab.json"


@dataclass(frozen=True)
class Experiment:
    """All metrics of an A/B. `missing` says why one is not analysed by users, by its name."""

    analyses: tuple[Analysis, ...]
    missing: Mapping[str, str]

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Experiment":
        found = json.loads((folder / FILE).read_text())
        return cls(tuple(map(Analysis.from_dict, found["analyses"])), found["missing"])


def headline(found: Analysis) -> str:
    """What came of one metric, in a sentence."""
    low, high = found.overall.low, found.overall.high
    if found.overall.value is None or low is None or high is None:
        return f"Too few users were seen to say anything of {found.metric}."
    if low <= 0 <= high:
        return f"No difference of {found.metric} is shown."
    return f"{found.metric} is {'higher' if low > 0 else 'lower'} with the new release."


def details(found: Analysis) -> str:
    """By how much, and how far it is to be trusted, in sentences."""
    said, overall = [], found.overall
    if overall.value is not None:
        said.append(
            f"By {overall.value:+.3g} a user ({overall.low:+.3g} to {overall.high:+.3g}, an interval that "
            f"may be watched, at {1 - found.alpha:.0%}), over {found.users:,} users."
        )
    if found.needed:
        said.append(f"{found.needed:,} users were reckoned to be enough.")
    if found.in_both:
        said.append(
            f"{found.in_both:,} users met both releases and were left out; sticky routing leaves none."
        )
    off = ", ".join(each.name for each in found.off_plan)
    said.append(
        f"Users were not split as planned, {found.weight:.0%} to the new release, in {off}: distrust this."
        if off
        else "Users were split as planned in each stratum."
    )
    return " ".join(said)


def table(found: Analysis) -> pd.DataFrame:
    """A line a stratum; numbers that are not known are NaN."""
    lines = [
        {
            "stratum": each.name,
            "users, stable": each.stable,
            "users, canary": each.canary,
            "mean, stable": each.stable_mean,
            "mean, canary": each.canary_mean,
            "difference": each.difference.value,
            "from": each.difference.low,
            "to": each.difference.high,
            "canary's share": each.share.value,
        }
        for each in found.strata
    ]
    return pd.DataFrame(lines).astype({"difference": float, "from": float, "to": float} if lines else {})
