"""The registry sensor: a new version, or an alias that moved, starts one release."""

import dagster as dg

from pipelines.assets.common import Chapter
from pipelines.core.candidates import Seen, to_release
from pipelines.core.errors import SeatrialError
from pipelines.gateways.registry import Registry

INTERVAL_SECONDS = 30


def registry_sensor(chapter: Chapter, job: str) -> dg.SensorDefinition:
    """Looks at the registry; each version to release becomes a partition and one run of `job`."""
    spec = chapter.spec

    @dg.sensor(
        name=f"{spec.name}_registry",
        job_name=job,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Releases new versions of {spec.registered_name} and what {spec.alias} moves to.",
    )
    def sensor(context: dg.SensorEvaluationContext, registry: dg.ResourceParam[Registry]):
        try:
            versions = frozenset(registry.versions(spec.registered_name))
            aliased = registry.resolve(spec.registered_name, spec.alias)
        except SeatrialError as error:
            return dg.SkipReason(str(error))
        now = Seen(versions, aliased)
        new = to_release(Seen.load(context.cursor), now, _started(context.instance, job))
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=f"{spec.name}:{v}", partition_key=v) for v in new],
            dynamic_partitions_requests=[chapter.versions.build_add_request(new)] if new else [],
            cursor=now.dump(),
        )

    return sensor


def _started(instance: dg.DagsterInstance, job: str) -> frozenset[str]:
    """The versions that have a release run already, whoever started it."""
    runs = instance.get_run_records(dg.RunsFilter(job_name=job))
    return frozenset(
        version for run in runs if (version := run.dagster_run.tags.get("dagster/partition")) is not None
    )
