"""One served model: its name, its data, and the sections that the other files here describe."""

import re

from pydantic import Field, field_validator, model_validator

from pipelines.core.spec.base import Settings
from pipelines.core.spec.gate import GateSpec, refuse_drop
from pipelines.core.spec.rollout import RolloutSpec
from pipelines.core.spec.serving import ServingSpec
from pipelines.core.spec.watching import MonitoringSpec, ScoringSpec


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
    rollout: RolloutSpec = Field(default_factory=RolloutSpec)
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
        refuse_drop("monitoring.max_drop", self.monitoring.max_drop, self.gate.metric)
        return self

    @property
    def registered_name(self) -> str:
        return self.registry_uri.removeprefix("models:/").split("@")[0]

    @property
    def alias(self) -> str:
        return self.registry_uri.split("@")[1]
