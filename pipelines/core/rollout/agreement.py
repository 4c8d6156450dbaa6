"""What a shadow has shown: where two releases that were sent the same requests answer alike, and where not.

Requests are what is counted, as rows of one request are not independent: one counts as the share of its rows
in which both decide alike. All intervals are by `sequential`, so a shadow may be watched and ended any time.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipelines.core.errors import SettingsInvalid
from pipelines.core.evaluate import as_columns, decisions
from pipelines.core.rollout.sample_size import users_to_show
from pipelines.core.rollout.sequential import rate
from pipelines.core.rollout.tally import Estimate, Tally

FILE = "shadow.json"
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True)
class Same:
    """When two answers are the same decision.

    label         the same string or number
    probability   the same class: by the threshold `limit` where there are two, else the largest
    value         at most `limit` apart
    """

    kind: Literal["label", "probability", "value"]
    limit: float = 0.5

    def __str__(self) -> str:
        said = {
            "label": "the same answer",
            "probability": f"the same decision at a threshold of {self.limit:g}",
        }
        return said.get(self.kind, f"answers at most {self.limit:g} apart")


@dataclass(frozen=True)
class Disagreement:
    """A row that was decided differently; `apart` is None where answers are no numbers."""

    request_id: str
    row: int
    stable: Any
    canary: Any
    apart: float | None
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Agreement:
    """Two releases on the same requests.

    agree          the share of requests, of each of which its rows share, that are decided alike
    apart_mean, apart_max, apart   |Δ| of the answers, the largest over a row's numbers: mean, most, quantiles
    slower_ms      quantiles of the time of the canary less that of stable, pair by pair
    disagreements  those that are furthest apart, first
    outcome_rate   what an A/B would measure, of stable; None: not given
    users          that an A/B takes to show the largest effect which the disagreement makes possible
    alpha          each interval fails to hold, at any time, with this probability at most
    """

    same: Same
    requests: int
    rows: int
    agree: Estimate
    apart_mean: float | None
    apart_max: float | None
    apart: Mapping[str, Estimate]
    slower_ms: Mapping[str, Estimate]
    disagreements: tuple[Disagreement, ...]
    outcome_rate: float | None
    users: int | None
    alpha: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Agreement":
        spread = {name: _estimates(found[name]) for name in ("apart", "slower_ms")}
        rows = tuple(Disagreement(**each) for each in found["disagreements"])
        same, agree = Same(**found["same"]), Estimate(**found["agree"])
        return cls(**{**found, **spread, "same": same, "agree": agree, "disagreements": rows})

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(self.to_dict(), indent=2, default=str) + "\n")


def agreement(
    chunks: Iterable[pd.DataFrame],
    same: Same,
    outcome_rate: float | None = None,
    top: int = 20,
    alpha: float = 0.05,
) -> Agreement:
    """From rows that both releases answered: request_id, row, stable and canary, which are answers, stable_ms
    and canary_ms, which are of the request. All rows of a request are in one chunk. Bounded memory.

    Raises SettingsInvalid where the answers can't be compared in this way."""
    seen = _Seen(same, top)
    for chunk in chunks:
        if len(chunk):
            seen.add(_compared(chunk, same))
    agree, users = _share(seen.agreed, seen.requests, alpha), None
    if agree.value is not None and outcome_rate is not None:
        users = users_to_show(1 - agree.value, outcome_rate)
    return Agreement(
        same,
        seen.requests,
        seen.rows,
        agree,
        seen.apart.mean,
        seen.apart.furthest if seen.apart.count else None,
        {name: seen.apart.quantile(at, alpha) for name, at in QUANTILES.items()},
        {name: seen.slower_ms.quantile(at, alpha) for name, at in QUANTILES.items()},
        tuple(map(_disagreement, seen.furthest.to_dict("records"))),
        outcome_rate,
        users,
        alpha,
    )


class _Seen:
    """What is kept of the chunks so far."""

    def __init__(self, same: Same, top: int) -> None:
        self.top, self.agreed, self.requests, self.rows = top, 0.0, 0, 0
        self.apart, self.slower_ms, self.furthest = Tally(), Tally(), pd.DataFrame()

    def add(self, pairs: pd.DataFrame) -> None:
        """A chunk of `_compared`."""
        requests = pairs.groupby("request_id", sort=False)
        took = requests[["stable_ms", "canary_ms"]].first()
        self.agreed += float(requests["alike"].mean().sum())
        self.requests, self.rows = self.requests + len(requests), self.rows + len(pairs)
        self.apart.add(pairs["apart"].to_numpy())
        self.slower_ms.add(np.asarray(took["canary_ms"] - took["stable_ms"], float))
        worse = [each for each in (self.furthest, pairs.loc[~pairs["alike"]]) if len(each)]
        if worse:
            ordered = pd.concat(worse).sort_values(
                "apart", ascending=False, na_position="first", kind="stable"
            )
            self.furthest = ordered.head(self.top)


def _compared(chunk: pd.DataFrame, same: Same) -> pd.DataFrame:
    """The rows with `alike` and `apart`, which is NaN where one answer is no number. Two that are none are
    alike."""
    if same.kind == "label":
        one, other = chunk["stable"], chunk["canary"]
        alike = (one == other) | (one.isna() & other.isna())
        return chunk.assign(alike=alike.to_numpy(bool), apart=np.nan)
    one, other = _numbers(chunk["stable"], same), _numbers(chunk["canary"], same)
    if one.shape != other.shape:
        raise SettingsInvalid("answers", [one.shape, other.shape], "take an output that is alike in both")
    apart = np.where(np.isnan(one) & np.isnan(other), 0.0, np.abs(other - one)).max(axis=1)
    known = ~np.isnan(apart)
    if same.kind == "value":
        return chunk.assign(alike=known & (apart <= same.limit), apart=apart)
    return chunk.assign(
        alike=known & (decisions(one, same.limit) == decisions(other, same.limit)), apart=apart
    )


def _numbers(answers: Any, same: Same) -> np.ndarray:
    """(rows, numbers)."""
    try:
        return as_columns(np.array(answers.tolist(), float))
    except (ValueError, TypeError) as error:
        mend = f"{error}; compare them by label, or take an output of equally many numbers in each row"
        raise SettingsInvalid(f"{same.kind} of answers", answers.iloc[0], mend) from error


def _share(agreed: float, requests: int, alpha: float) -> Estimate:
    if not requests:
        return Estimate(None)
    bounds = rate(agreed, requests, alpha / 2)
    return Estimate(agreed / requests, float(bounds.low), float(bounds.high))


def _disagreement(row: Mapping[Any, Any]) -> Disagreement:
    apart = None if math.isnan(row["apart"]) else float(row["apart"])
    answers = [_plain(row[arm]) for arm in ("stable", "canary")]
    return Disagreement(str(row["request_id"]), int(row["row"]), answers[0], answers[1], apart)


def _plain(value: Any) -> Any:
    """As JSON has it: no arrays, no NaN."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(each) for each in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _estimates(found: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: Estimate(**each) for name, each in found.items()}
