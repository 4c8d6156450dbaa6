"""How a version takes the place of another: the section `rollout` of defs.yaml."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.guardrails import ErrorRate, Guardrail, Latency, Metric, Predictions, Split
from pipelines.core.rollout.plan import Plan
from pipelines.core.rollout.strategies import DAY, WEIGHTS, in_order
from pipelines.core.rollout.watch import Measure
from pipelines.core.spec.base import Settings, fractions, positives


class MetricSpec(Settings):
    """A metric of labels or of the business that a rollout is judged by."""

    name: str = Field(description="What it is called in reports.")
    better: Literal["higher", "lower"] = Field(description="Which way is better.")
    margin: float = Field(description="How much worse it may get, in its own unit.")
    between: list[float] | None = Field(
        default=None, description="Limits that every value keeps, e.g. [0, 1]: judged exactly, and sooner."
    )
    sql: str | None = Field(
        default=None,
        description="A query with the columns release_id and value, one row a request, over the view "
        "predictions and those of `files`. With a column user, users are counted, and an A/B is analysed by "
        "them.",
    )
    function: str | None = Field(
        default=None, description="package.module:function that returns such a table instead."
    )
    files: dict[str, str] = Field(
        default={},
        description="Views by name: Parquet or CSV files, relative to SEATRIAL_HOME; * is allowed.",
    )
    every_seconds: float = Field(default=30.0, description="How often it is asked for.")

    @field_validator("between")
    @classmethod
    def _are_limits(cls, between: list[float] | None) -> list[float] | None:
        if between is not None and len(between) != 2:
            raise ValueError(f"is the lower and the upper limit, e.g. [0, 1], not {between}")
        return between

    @model_validator(mode="after")
    def _can_be_taken(self) -> "MetricSpec":
        try:
            self.measure()
            self.guardrail()
        except SettingsInvalid as error:
            raise ValueError(str(error)) from error
        return self

    def measure(self) -> Measure:
        return Measure(self.name, self.sql, self.function, self.files, self.every_seconds)

    def guardrail(self) -> Metric:
        low, high = self.between or (0, 1)
        return Metric(self.name, self.better, self.margin, (low, high) if self.between else None)


class RolloutSpec(Settings):
    """How a version takes the place of another."""

    strategy: list[str] = Field(
        default=["canary", "full"],
        description="Steps in order: shadow (copies of requests), canary (few users, then more), ab (half of "
        "the users, for weeks), blue_green (all at once, stable kept ready), full (it is stable now). "
        "[full] alone: at once, once all gates passed. Without full it is an experiment, after which all "
        "users are back with stable.",
    )
    weights: list[float] = Field(
        default=list(WEIGHTS), description="Shares of users that canary goes through."
    )

    # What a release must not do worse than the one that serves.
    max_error_increase: float = Field(
        default=0.01, description="How much the share of requests that fail may rise."
    )
    latency_quantile: float = Field(default=0.99, description="Which quantile of latency is compared.")
    max_latency_ratio: float = Field(default=1.5, description="How many times as long it may be.")
    max_prediction_distance: float | None = Field(
        default=0.1,
        description="How far the distribution of answers may move: the largest difference in the share of "
        "answers up to any value. None: answers are not compared.",
    )
    split_tolerance: float = Field(
        default=0.2, description="How far off its planned share of requests a canary may be, of that share."
    )
    metrics: list[MetricSpec] = Field(default=[], description="Metrics of labels or of the business.")
    stratify_by: str = Field(
        default="day",
        description="What users of an A/B are compared within: day, or a column of the prediction log such "
        "as input_carrier, which must not depend on the release.",
    )
    prove: list[str] = Field(
        default=["error_rate", "predictions"],
        description="What a step has to prove harmless, by name: also latency_p99 or a metric. Of the "
        "others, no harm may have been found in min_requests; to prove a quantile takes many more.",
    )
    alpha: float = Field(
        default=0.05,
        description="The chance that a release that is no worse is rolled back, over all looks at all this.",
    )

    # How fast.
    min_requests: int = Field(default=1000, description="That each side must have answered in a step.")
    min_seconds: float = Field(default=60.0, description="The least that a step takes.")
    max_seconds: float = Field(
        default=3600.0, description="A step that is still uncertain by then is rolled back."
    )
    experiment_days: list[float] = Field(
        default=[7, 28], description="The least and the most that ab takes, in place of those."
    )
    grace_seconds: float = Field(default=10.0, description="How long a canary that is gone is waited for.")
    standby_seconds: float = Field(
        default=3600.0,
        description="How long the former release is kept ready after a rollout, to go back to at once.",
    )
    follow_seconds: float = Field(
        default=600.0,
        description="How long a run waits for the outcome; a sensor records one that takes longer.",
    )
    max_rollback_seconds: float = Field(
        default=5.0, description="The most that the rehearsed rollback may take."
    )

    _are_fractions = fractions("max_error_increase", "split_tolerance", "alpha", "latency_quantile")
    _are_positive = positives(
        "min_requests", "min_seconds", "max_seconds", "weights", "alpha", "max_rollback_seconds"
    )

    @field_validator("strategy")
    @classmethod
    def _has_steps(cls, strategy: list[str]) -> list[str]:
        if not strategy:
            raise ValueError("needs a step, e.g. [canary, full]")
        return strategy

    @field_validator("grace_seconds", "standby_seconds", "follow_seconds")
    @classmethod
    def _is_no_debt(cls, seconds: float) -> float:
        if seconds < 0:
            raise ValueError(f"must be at least 0 seconds, not {seconds:g}")
        return seconds

    @field_validator("experiment_days")
    @classmethod
    def _are_two(cls, days: list[float]) -> list[float]:
        if len(days) != 2:
            raise ValueError(f"are the least and the most, e.g. [7, 28], not {days}")
        return days

    @model_validator(mode="after")
    def _makes_a_plan(self) -> "RolloutSpec":
        try:
            self.plan()
        except SettingsInvalid as error:
            raise ValueError(str(error)) from error
        return self

    def plan(self) -> Plan | None:
        """The steps; None where a version takes over at once."""
        if self.strategy == ["full"]:
            return None
        days = {"min_seconds": self.experiment_days[0] * DAY, "max_seconds": self.experiment_days[1] * DAY}
        made = in_order(
            self.strategy, self._guardrails(), self.alpha, self.weights, days,
            prove=self._proved(), min_requests=self.min_requests, min_seconds=self.min_seconds,
            max_seconds=self.max_seconds,
        )  # fmt: skip
        return Plan(made.steps, self.alpha, self.grace_seconds)

    def _proved(self) -> tuple[str, ...]:
        """Those to prove among what is compared."""
        names = [guardrail.name for guardrail in self._guardrails() if not isinstance(guardrail, Split)]
        for name in self.prove:
            if name not in (*names, "predictions"):
                raise SettingsInvalid("prove", name, f"write names of what is compared: {', '.join(names)}")
        return tuple(name for name in self.prove if name in names)

    def _guardrails(self) -> tuple[Guardrail, ...]:
        compared = self.max_prediction_distance
        return (
            ErrorRate(self.max_error_increase),
            Latency(self.latency_quantile, self.max_latency_ratio),
            *([] if compared is None else [Predictions(compared)]),
            *(metric.guardrail() for metric in self.metrics),
            Split(self.split_tolerance),
        )
