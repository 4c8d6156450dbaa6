"""ServedModel: one defs.yaml gives a model its whole release, its scoring and its monitoring."""

from collections.abc import Sequence
from contextlib import nullcontext

import dagster as dg
from dagster._utils.pydantic_yaml import enrich_validation_errors_with_source_position
from pydantic import BaseModel

from pipelines.assets.common import Chapter
from pipelines.assets.drill import drill
from pipelines.assets.image import image
from pipelines.assets.load import load
from pipelines.assets.monitor import monitor
from pipelines.assets.optimize import optimize
from pipelines.assets.package import package
from pipelines.assets.report import report
from pipelines.assets.review import review
from pipelines.assets.rollout import rollout
from pipelines.assets.score import score
from pipelines.components.registry_sensor import registry_sensor
from pipelines.components.rollout_sensor import rollout_sensor
from pipelines.components.scaffolder import ServedModelScaffolder
from pipelines.core.metrics import metric_of
from pipelines.core.spec import ModelSpec, ScoringSpec

ONE_AT_A_TIME = {"seatrial/release": "one at a time"}
"""dagster.yaml limits runs with this tag to one: load tests at the same time would measure each other."""


@dg.scaffold_with(ServedModelScaffolder)
class ServedModel(ModelSpec, dg.Component, dg.Resolvable):
    """A model from its registration to a release that serves, scores and is watched.

    Makes the assets [name, …], their checks, the jobs NAME_release, NAME_rollout, NAME_scoring and
    NAME_performance, sensors on the registry and on rollouts, and the schedules of scoring.
    """

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> "ServedModel":
        """As Dagster does, which names file and line only where a setting of a section is wrong."""
        tree = context.source_position_tree
        attributes = tree.children.get("attributes") if tree else None
        named = enrich_validation_errors_with_source_position
        with named(attributes, ["attributes"]) if attributes else nullcontext():
            return super().resolve_from_model(context, model)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        metric_of(self.gate.metric, self.gate.threshold)  # a function that isn't there is found out here
        chapter = Chapter(self)
        chapters = (optimize, package, load, image, drill, rollout)
        release = [item for each in chapters for item in each(chapter)]
        reports = [chapter.key(name) for name in ("release_report", "rollout_report")]
        released = dg.AssetSelection.assets(*_keys(release), *reports)
        release_job = dg.define_asset_job(f"{self.name}_release", released, tags=ONE_AT_A_TIME)
        deployed = dg.AssetSelection.assets(chapter.key("deployment"), *reports)
        rollout_job = dg.define_asset_job(f"{self.name}_rollout", deployed)
        watching = [*score(chapter, self.scoring), *monitor(chapter, self.scoring)] if self.scoring else []
        jobs, schedules = _scoring_jobs(chapter, self.scoring) if self.scoring else ([], [])
        definitions = [*release, *watching, *report(chapter, self.scoring), *review(chapter)]
        return dg.Definitions(
            assets=[item for item in definitions if not isinstance(item, dg.AssetChecksDefinition)],
            asset_checks=[item for item in definitions if isinstance(item, dg.AssetChecksDefinition)],
            jobs=[release_job, rollout_job, *jobs],
            schedules=schedules,
            sensors=[
                registry_sensor(chapter, release_job.name),
                rollout_sensor(chapter, rollout_job.name),
            ],
        )


def _keys(definitions: Sequence) -> list[dg.AssetKey]:
    return [item.key for item in definitions if not isinstance(item, dg.AssetChecksDefinition)]


def _scoring_jobs(chapter: Chapter, scoring: ScoringSpec) -> tuple[list, list]:
    """Jobs and schedules of a month that ended, and of a month whose labels arrived."""
    name, spec = chapter.spec.name, scoring
    steps = [chapter.key(asset) for asset in ("scoring_input", "scores", "drift", "monitoring_report")]
    scored = dg.AssetSelection.assets(*_upstream(spec.input_asset), *steps)
    jobs = [dg.define_asset_job(f"{name}_scoring", scored)]
    if spec.labels:
        labelled = dg.AssetSelection.assets(*_upstream(spec.labels_asset), chapter.key("performance"))
        jobs.append(dg.define_asset_job(f"{name}_performance", labelled))
    schedules = [
        dg.build_schedule_from_partitioned_job(
            job,
            name=f"{job.name}_schedule",
            day_of_month=spec.day_of_month,
            hour_of_day=spec.hour_of_day,
            default_status=dg.DefaultScheduleStatus.RUNNING,
        )
        for job in jobs
    ]
    return jobs, schedules


def _upstream(asset: str | None) -> list[dg.AssetKey]:
    return [dg.AssetKey.from_user_string(asset)] if asset else []
