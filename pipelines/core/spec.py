"""The settings of one served model, as written in its defs.yaml. Every setting is documented here, once.

Plain values: no Dagster, no defaults from the environment. Each validator says what to write instead.
"""

import hashlib
import json
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipelines.core.rungs import NAMES as RUNGS

METRICS = ("auc", "accuracy", "log_loss", "rmse", "cosine")
BOUNDED_METRICS = ("auc", "accuracy", "cosine")
Device = Literal["cpu", "cuda"]
Method = Literal["wasserstein", "jensenshannon", "psi", "ks", "chisquare", "kl_div", "hellinger"]


def _fraction(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"is a fraction such as 0.01, not {value:g} (percent)")
    return value


def _positive(value):
    for number in value if isinstance(value, list) else [value]:
        if number <= 0:
            raise ValueError(f"must be greater than 0, not {number:g}")
    return value


def _refuse_drop(name: str, drop: float, metric: str) -> None:
    """A drop is in the unit of its metric, so only some are fractions."""
    if drop < 0 or (drop >= 1 and metric in BOUNDED_METRICS):
        raise ValueError(f"{name} is a fraction such as 0.01, not {drop:g} (percent)")


def _monthly(value: str | None) -> str | None:
    if value is not None and "{month}" not in value:
        raise ValueError(f"must contain {{month}}, e.g. data/scoring/{{month}}.parquet, not {value!r}")
    return value


def fractions(*names: str):
    """Validate these fields as fractions of one."""
    return field_validator(*names)(_fraction)


def positives(*names: str):
    """Validate these fields as numbers (or lists of numbers) greater than zero."""
    return field_validator(*names)(_positive)


class Settings(BaseModel):
    """The base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def digest(self) -> str:
        """A short digest that changes when any setting in here does."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class DataSpec(Settings):
    """The Parquet files a release is judged on. Paths are absolute or relative to SEATRIAL_HOME."""

    reference: str = Field(description="Rows the model was trained on; drift is measured against them.")
    calibration: str = Field(description="Rows that set the ranges of static INT8; seen by nothing else.")
    holdout: str = Field(description="Labelled rows, unseen in training, that every rung is judged on.")
    label: str = Field(description="The column of `holdout` and of the labels that holds the truth.")
    key: str = Field(description="The column that identifies a row, in the data, the scores and the labels.")
    asset: str | None = Field(
        default=None, description="The asset that writes these files, e.g. churn/splits."
    )


class FairnessSpec(Settings):
    """How far groups of people may be treated apart."""

    columns: list[str] = Field(description="Columns of the holdout that tell the groups, e.g. [sex].")
    max_gap: float = Field(
        default=0.1,
        description="Largest gap between two groups in the share of positive decisions, and in the share of "
        "the truly positive that are found.",
    )

    _are_fractions = fractions("max_gap")


class GateSpec(Settings):
    """When a rung is as good as fp32, and a version as good as the one in production."""

    rungs: list[str] = Field(
        default=["fp32", "int8_dynamic", "int8_per_row", "int8_static"],
        description="The rungs to try, by their files in pipelines/core/rungs; fp32 is always among them.",
    )
    metric: str = Field(
        default="auc",
        description="auc, accuracy, log_loss, rmse, cosine, or your own function as package.module:name, "
        "which takes labels and predictions; higher is better.",
    )
    output: str | None = Field(
        default=None, description="The output that the labels are about; none means the first."
    )
    threshold: float = Field(
        default=0.5, description="A probability from here on is a positive decision; flips are counted by it."
    )
    max_drop: float = Field(
        default=0.005, description="How much worse the metric may become, in its own unit."
    )
    confidence: float = Field(default=0.95, description="Of the one-sided bound that must clear max_drop.")
    max_mean_shift: float = Field(
        default=0.02,
        description="Mean movement of answers against fp32 that a rung may cause: |Δp| of probabilities, "
        "|Δ| in standard deviations of other values, 1 - cosine of embeddings.",
    )
    max_flip_rate: float = Field(
        default=0.02, description="The share of decisions that a rung may turn against fp32."
    )
    max_calibration_rise: float = Field(
        default=0.01, description="How much the expected calibration error may rise, as a probability."
    )
    max_batch_shift: float = Field(
        default=0.001,
        description="Largest movement of one row's answer between being scored alone and among others.",
    )
    parity: float = Field(
        default=1e-4, description="Largest difference of ONNX to the source model, absolute or relative."
    )
    batch_sizes: list[int] = Field(default=[1, 8, 64], description="Where speed is measured, in rows.")
    min_rows: int = Field(default=500, description="Fewer holdout rows than this are inconclusive.")
    calibration_rows: int = Field(
        default=2048, description="At most this many calibration rows set the ranges of static INT8."
    )
    slices: list[str] = Field(
        default=[],
        description="Columns of the holdout whose values are judged apart; numbers by their quartiles.",
    )
    max_slice_drop: float = Field(
        default=0.02, description="How much worse the metric may become on a slice, in its own unit."
    )
    min_slice_rows: int = Field(default=200, description="Slices with fewer rows are inconclusive.")
    fairness: FairnessSpec | None = Field(default=None, description="Limits on gaps between groups.")
    allow_breaking_contract: bool = Field(
        default=False, description="Release a version that clients of the present one cannot talk to."
    )

    _are_fractions = fractions("max_mean_shift", "max_flip_rate", "max_calibration_rise", "max_batch_shift")
    _are_positive = positives("parity", "batch_sizes", "min_rows", "calibration_rows", "min_slice_rows")

    @field_validator("rungs")
    @classmethod
    def _has_fp32(cls, rungs: list[str]) -> list[str]:
        if unknown := sorted(set(rungs) - set(RUNGS)):
            raise ValueError(f"knows {', '.join(RUNGS)}, not {', '.join(unknown)}")
        if "fp32" not in rungs:
            raise ValueError("must contain fp32, which the others are compared with")
        return rungs

    @field_validator("confidence")
    @classmethod
    def _is_confident(cls, confidence: float) -> float:
        if not 0.5 <= confidence < 1:
            raise ValueError(f"must be at least 0.5 and below 1, e.g. 0.95, not {confidence:g}")
        return confidence

    @field_validator("metric")
    @classmethod
    def _is_metric(cls, metric: str) -> str:
        if metric not in METRICS and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", metric):
            raise ValueError(
                f"must be one of {', '.join(METRICS)} or package.module:function, not {metric!r}"
            )
        return metric

    @model_validator(mode="after")
    def _drops_fit_the_metric(self) -> "GateSpec":
        for name in ("max_drop", "max_slice_drop"):
            _refuse_drop(name, getattr(self, name), self.metric)
        return self


class ServingSpec(Settings):
    """How the release is served and what is promised about it."""

    path: str = Field(
        default="/", description="Where the model answers below the shared address, e.g. /churn."
    )
    max_batch_size: int = Field(default=64, description="Rows in one model run.")
    max_latency_ms: int = Field(
        default=1000, description="A request that would take longer is answered 503 at once."
    )
    device: Device = Field(
        default="cpu", description="Where the model runs; nothing falls back from cuda to the CPU in silence."
    )
    threads: int = Field(default=1, description="Intra-op threads of the ONNX Runtime session.")
    p99_ms: float = Field(
        default=100.0, description="The p99 of a request in the load test, from its intended start."
    )
    max_error_rate: float = Field(
        default=0.001, description="The share of requests that may fail in the load test."
    )
    expected_peak_rps: float = Field(
        default=50.0, description="Requests a second; the load test offers this and twice this."
    )
    load_seconds: float = Field(
        default=10.0, description="Length of each stage of the load test, in seconds."
    )

    _are_fractions = fractions("max_error_rate")
    _are_positive = positives(
        "max_batch_size", "max_latency_ms", "threads", "p99_ms", "expected_peak_rps", "load_seconds"
    )

    @field_validator("path")
    @classmethod
    def _is_path(cls, path: str) -> str:
        if not re.fullmatch(r"/[A-Za-z0-9._~/-]*", path):
            raise ValueError(f"must start with / and hold no spaces, e.g. /churn, not {path!r}")
        return path.rstrip("/") or "/"


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


class ModelSpec(Settings):
    """One served model: everything its release, scoring and monitoring need to know."""

    name: str = Field(description="The model's name: asset group, first part of every asset key.")
    registry_uri: str = Field(description="models:/NAME@ALIAS; the alias is watched for candidates.")
    trained_by: str | None = Field(
        default=None, description="The asset that registers the model, if one does."
    )
    ranges: dict[str, list[float]] = Field(
        default={}, description="Inclusive [minimum, maximum] of numeric inputs; values outside are refused."
    )
    data: DataSpec
    gate: GateSpec = Field(default_factory=GateSpec)
    serving: ServingSpec = Field(default_factory=ServingSpec)
    scoring: ScoringSpec | None = None
    monitoring: MonitoringSpec = Field(default_factory=MonitoringSpec)

    @field_validator("name")
    @classmethod
    def _is_identifier(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
            raise ValueError(f"must be lower-case letters, digits and _, e.g. flight_delay, not {name!r}")
        return name

    @field_validator("registry_uri")
    @classmethod
    def _is_alias_uri(cls, uri: str) -> str:
        if not re.fullmatch(r"models:/[^/@]+@[^/@]+", uri):
            raise ValueError(f"must be models:/NAME@ALIAS, e.g. models:/churn@candidate, not {uri!r}")
        return uri

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> "ModelSpec":
        for column, bounds in self.ranges.items():
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                raise ValueError(f"ranges.{column} must be [minimum, maximum], e.g. [0, 100], not {bounds}")
        return self

    @model_validator(mode="after")
    def _monthly_drop_fits_the_metric(self) -> "ModelSpec":
        _refuse_drop("monitoring.max_drop", self.monitoring.max_drop, self.gate.metric)
        return self

    @property
    def registered_name(self) -> str:
        return self.registry_uri.removeprefix("models:/").split("@")[0]

    @property
    def alias(self) -> str:
        return self.registry_uri.split("@")[1]
