"""The settings of one served model, as written in its defs.yaml. Every setting is documented here, once.

Plain values: no Dagster, no defaults from the environment. Each validator says what to write instead.

model      the whole of it, and its data
gate       when an artifact is good enough
serving    how a release is served
rollout    how it takes the place of another
watching   scoring and monitoring
base       what they share
"""

from pipelines.core.spec.gate import FairnessSpec, GateSpec
from pipelines.core.spec.model import DataSpec, ModelSpec
from pipelines.core.spec.rollout import MetricSpec, RolloutSpec
from pipelines.core.spec.serving import ServingSpec
from pipelines.core.spec.watching import ColumnDrift, MonitoringSpec, ScoringSpec

__all__ = [
    "ColumnDrift",
    "DataSpec",
    "FairnessSpec",
    "GateSpec",
    "MetricSpec",
    "ModelSpec",
    "MonitoringSpec",
    "RolloutSpec",
    "ScoringSpec",
    "ServingSpec",
]
