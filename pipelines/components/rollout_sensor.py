"""The rollout sensor: a rollout that outlasts the run which followed it is recorded when it is over."""

import json

import dagster as dg

from pipelines.assets.common import Chapter
from pipelines.assets.rollout import OUTCOME_FILE, ROLLOUT_TAG
from pipelines.core.home import Home
from pipelines.gateways.ledger import Ledger

INTERVAL_SECONDS = 30


def rollout_sensor(chapter: Chapter, job: str) -> dg.SensorDefinition:
    """Looks at the ledger; a rollout that is over and not recorded as such gets one run of `job`."""
    name = chapter.spec.name

    @dg.sensor(
        name=f"{name}_rollouts",
        job_name=job,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Records rollouts of {name} that took days.",
    )
    def sensor(home: dg.ResourceParam[Home], ledger: dg.ResourceParam[Ledger]):
        for rollout in ledger.standing(name).rollouts[-1:]:
            path = chapter.of_version(home, "deployment", rollout.canary.version) / OUTCOME_FILE
            known = json.loads(path.read_text()) if path.exists() else {}
            if rollout.outcome and known == {"number": rollout.number, "outcome": None}:
                tags = {ROLLOUT_TAG: str(rollout.number)}
                key = f"{name}:rollout:{rollout.number}"
                return dg.RunRequest(run_key=key, partition_key=rollout.canary.version, tags=tags)
        return dg.SkipReason("no rollout has ended since the last look")

    return sensor
