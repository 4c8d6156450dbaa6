"""When an artifact is good enough to be served: the section `gate` of defs.yaml."""

import re

from pydantic import Field, field_validator, model_validator

from pipelines.core.rungs import NAMES as RUNGS
from pipelines.core.spec.base import Settings, fractions, positives

METRICS = ("auc", "accuracy", "log_loss", "rmse", "cosine")
BOUNDED_METRICS = ("auc", "accuracy", "cosine")


def refuse_drop(name: str, drop: float, metric: str) -> None:
    """A drop is in the unit of its metric, so only some are fractions."""
    if drop < 0 or (drop >= 1 and metric in BOUNDED_METRICS):
        raise ValueError(f"{name} is a fraction such as 0.01, not {drop:g} (percent)")


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
            refuse_drop(name, getattr(self, name), self.metric)
        return self
