"""Running assets from the prompt: only what is out of date, in this process, one line a step.

What is out of date is decided by Dagster's own data versions and code versions, so the UI and the prompt
agree. An asset whose blocking check is not green is out of date too.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import dagster as dg
import psutil
from dagster import AssetKey, DagsterEvent, DagsterEventType, DagsterInstance
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContext
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from pipelines.core.errors import SeatrialError, SettingsInvalid

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

GREEN = AssetCheckExecutionRecordStatus.SUCCEEDED
HISTORY = 200
"""How many evaluations of a check are looked through for the partition's own."""

Progress = Callable[[str], None]


class RunFailed(SeatrialError):
    """A step failed or a blocking check held the run back."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")


@dataclass
class Times:
    """Seconds of each step of the runs so far; `total` counts from the start of this process."""

    steps: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return time.time() - psutil.Process().create_time()


@dataclass
class Runner:
    """Brings assets of one code location up to date."""

    definitions: dg.Definitions
    instance: DagsterInstance
    progress: Progress
    times: Times = field(default_factory=Times)

    def refresh(
        self,
        job: str,
        partition: str | None = None,
        only: Sequence[AssetKey] = (),
        again: Sequence[AssetKey] = (),
    ) -> list[str]:
        """Materialize what is out of date among the job's assets (or `only` these), and `again` in any case;
        returns their names.

        Raises RunFailed with the sentence of the step or check that failed, SettingsInvalid for a partition
        that there is not.
        """
        selected = set(only) or self.definitions.resolve_job_def(job).asset_layer.selected_asset_keys
        assets = [key for key in self._graph.toposorted_asset_keys if key in selected]
        self._check_partition(assets, partition)
        ran: list[AssetKey] = []
        for _ in assets:
            due = {*self._stale(assets, partition)} | ({*again} - {*ran})
            if not due:
                break
            todo = [key for key in assets if key in due]
            self._run(job, todo, partition)
            ran += todo
            if todo == assets:
                break
        return [key.path[-1] for key in ran]

    def _check_partition(self, assets: Iterable[AssetKey], partition: str | None) -> None:
        for key in assets:
            defined = self._graph.get(key).partitions_def
            known = defined.get_partition_keys(dynamic_partitions_store=self.instance) if defined else []
            if defined and partition not in known:
                there = f"{known[0]} to {known[-1]}" if known else "none yet"
                raise SettingsInvalid("The partition", partition, f"{key.to_user_string()} has {there}")

    @cached_property
    def _graph(self):
        return self.definitions.resolve_asset_graph()

    def _stale(self, assets: Iterable[AssetKey], partition: str | None) -> list[AssetKey]:
        resolver = CachingStaleStatusResolver(self.instance, self._graph, _Loading(self.instance))
        stale = []
        for key in assets:
            partitioned = self._graph.get(key).is_partitioned
            status = resolver.get_status(key, partition if partitioned else None)
            if status != StaleStatus.FRESH or not self._is_proven(key, partition):
                stale.append(key)
        return stale

    def _is_proven(self, key: AssetKey, partition: str | None) -> bool:
        """Whether each blocking check of the asset was green at its last look at this partition."""
        checks = self._graph.get(key).check_keys
        blocking = [check for check in checks if self._graph.get_check_spec(check).blocking]
        return all(self._last_status(check, partition) == GREEN for check in blocking)

    def _last_status(self, check: dg.AssetCheckKey, partition: str | None):
        """The check's latest status in a run of this partition; None where there is none."""
        storage = self.instance.event_log_storage
        for record in storage.get_asset_check_execution_history(check, limit=HISTORY):
            run = self.instance.get_run_by_id(record.run_id)
            if run and run.tags.get("dagster/partition") == partition:
                return record.status
        return None

    def _run(self, job: str, assets: Sequence[AssetKey], partition: str | None) -> None:
        run_id = str(uuid.uuid4())
        self.instance.add_event_listener(run_id, lambda entry: self._tell(entry.dagster_event))
        result = self.definitions.resolve_job_def(job).execute_in_process(
            run_config=QUIET,
            instance=self.instance,
            partition_key=partition,
            asset_selection=assets,
            raise_on_error=False,
            run_id=run_id,
        )
        if not result.success:
            raise _failure(result.all_events)

    def _tell(self, event: DagsterEvent | None) -> None:
        if event is None or not event.step_key:
            return
        name = event.step_key.replace("__", "/")
        if event.is_step_start:
            self.progress(f"… {name}")
        elif event.is_step_success:
            seconds = event.step_success_data.duration_ms / 1000
            self.times.steps[name] = self.times.steps.get(name, 0.0) + seconds
            self.progress(f"✓ {name}  {seconds:.1f} s")
        elif event.is_step_failure:
            self.progress(f"✗ {name}")


def _failure(events: Sequence[DagsterEvent]) -> RunFailed:
    """The first red blocking check, else the first error of ours, else whatever the step raised."""
    for event in events:
        if event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            if found.blocking and not found.passed:
                return RunFailed(
                    f"{found.asset_key.to_user_string()} {found.check_name}", str(found.description)
                )
    for event in events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.error
            root = error.cause or error
            why = root.message.strip().removeprefix(f"{SeatrialError.__module__}.{root.cls_name}: ")
            return RunFailed(str(event.step_key).replace("__", "/"), why)
    return RunFailed("run", "it ended without saying why; look at it in the Dagster UI")


class _Loading(LoadingContext):
    """What the resolver loads records through, for one look."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._instance, self._loaders = instance, {}

    @property
    def instance(self) -> DagsterInstance:
        return self._instance

    @property
    def loaders(self) -> Mapping:
        return self._loaders
