"""What happens every month: the sections `scoring` and `monitoring` of defs.yaml."""

import re
from typing import Literal

from pydantic import Field, field_validator

from pipelines.core.spec.base import Settings, fractions, positives

Method = Literal["wasserstein", "jensenshannon", "psi", "ks", "chisquare", "kl_div", "hellinger"]


def _monthly(value: str | None) -> str | None:
    if value is not None and "{month}" not in value:
        raise ValueError(f"must contain {{month}}, e.g. data/scoring/{{month}}.parquet, not {value!r}")
    return value


class ScoringSpec(Settings):
    """Batch scoring by month, on a schedule."""

    input: str = Field(description="One Parquet file a month; {month} is e.g. 2013-04.")
    input_asset: str | None = Field(default=None, description="The monthly asset that writes `input`.")
    labels: str | None = Field(
        default=None, description="The labels of the rows of {month}: the key and the label column."
    )
    labels_asset: str | None = Field(default=None, description="The monthly asset that writes `labels`.")
    labels_delay_months: int = Field(
        default=1, description="How many months after the rows their labels arrive."
    )
    start: str = Field(description="The first month, e.g. 2013-04.")
    end: str | None = Field(default=None, description="The month after the last; none means it goes on.")
    day_of_month: int = Field(default=1, description="The day on which the month that just ended is scored.")
    hour_of_day: int = Field(default=6, description="The hour of that day, in UTC.")
    batch_rows: int = Field(default=8192, description="Rows in one streamed record batch.")

    _are_monthly = field_validator("input", "labels")(_monthly)
    _are_positive = positives("labels_delay_months", "batch_rows", "day_of_month")

    @field_validator("start", "end")
    @classmethod
    def _is_month(cls, month: str | None) -> str | None:
        if month is not None and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
            raise ValueError(f"must be a month such as 2013-04, not {month!r}")
        return month


class ColumnDrift(Settings):
    """How one column is compared with the reference."""

    method: Method = Field(description="The distance or test.")
    threshold: float = Field(description="Drift when the distance is above it (or the p-value below it).")

    _is_positive = positives("threshold")


class MonitoringSpec(Settings):
    """When a month counts as drifted, and when performance as lost."""

    numeric: ColumnDrift = Field(
        default=ColumnDrift(method="wasserstein", threshold=0.1),
        description="For numeric columns without an entry.",
    )
    categorical: ColumnDrift = Field(
        default=ColumnDrift(method="jensenshannon", threshold=0.1),
        description="For categorical columns without an entry.",
    )
    prediction: ColumnDrift = Field(
        default=ColumnDrift(method="wasserstein", threshold=0.1), description="For the model's output."
    )
    columns: dict[str, ColumnDrift] = Field(default={}, description="Method and threshold of single columns.")
    max_drifted_share: float = Field(
        default=0.3, description="The check fails above this share of drifted columns."
    )
    max_drop: float = Field(
        default=0.05, description="How much worse the metric may be than the holdout's, in its own unit."
    )
    min_rows: int = Field(default=500, description="Fewer rows than this are inconclusive.")
    max_rows: int = Field(default=20_000, description="More rows than this are sampled, seeded.")

    _are_fractions = fractions("max_drifted_share")
    _are_positive = positives("min_rows", "max_rows")
