"""A rollout as a report: what was decided, on what, and what a shadow or an experiment has shown."""

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import numpy as np
import pandas as pd

from bentos.contract import Contract
from bentos.manifest import Manifest, sha256
from pipelines.assets.common import Chapter, report_metadata
from pipelines.assets.rollout import OUTCOME_FILE
from pipelines.core.home import Home
from pipelines.core.rollout import timeline
from pipelines.core.rollout.agreement import Same, agreement
from pipelines.core.rollout.experiment import Experiment
from pipelines.core.rollout.plan import Step
from pipelines.core.rollout.rehearsal import DRILL_FILE
from pipelines.core.rollout.standing import Rollout
from pipelines.core.rollout.stratified import stratified
from pipelines.core.rollout.watch import Measure
from pipelines.core.spec import GateSpec
from pipelines.gateways.journal import Journal
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.measures import MeasureFailed
from pipelines.gateways.measuring import take
from pipelines.gateways.notebooks import Notebooks
from pipelines.gateways.paired_log import PairedLog
from pipelines.gateways.tables import replacing_folder

CLASSIFIES = ("auc", "accuracy", "log_loss")
AT_ONCE = "it took over at once"


def review(chapter: Chapter) -> Sequence:
    """The chapter's assets."""
    return [_rollout_report(chapter)]


def _rollout_report(chapter: Chapter) -> dg.AssetsDefinition:
    name = chapter.spec.name

    @dg.asset(
        key=chapter.key("rollout_report"),
        deps=[chapter.key("deployment")],
        partitions_def=chapter.versions,
        group_name=name,
        kinds={"jupyter"},
    )
    def rollout_report(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        ledger: dg.ResourceParam[Ledger],
        notebooks: dg.ResourceParam[Notebooks],
    ) -> dg.MaterializeResult:
        """The rollout of the release: its steps, every guardrail's bounds over time, and what was decided.

        Of a shadow, how often the two releases agree and where they do not; of an A/B, how metrics and
        answers differ by user. A release that took over at once has none.
        """
        version = context.partition_key
        folder = chapter.of_version(home, "rollout_report", version)
        told = json.loads((chapter.of_version(home, "deployment", version) / OUTCOME_FILE).read_text())
        if told["number"] is None:
            return dg.MaterializeResult(metadata={"rollout": AT_ONCE}, data_version=dg.DataVersion(AT_ONCE))
        rollout = next(r for r in ledger.standing(name).rollouts if r.number == told["number"])
        with replacing_folder(folder) as temp:
            _gather(chapter, home, ledger, rollout, temp)
        made = notebooks.run("rollout_review", {"rollout_dir": str(folder)}, folder)
        return dg.MaterializeResult(
            metadata={"rollout": rollout.state.why, **report_metadata(made)},
            data_version=dg.DataVersion(sha256(made.html)),
        )

    return rollout_report


def _gather(chapter: Chapter, home: Home, ledger: Ledger, rollout: Rollout, folder: Path) -> None:
    """All that the report is made from."""
    name, version = chapter.spec.name, rollout.canary.version
    timeline.save(folder, ledger.history(name), rollout.number)
    looks = Journal(home).path(name, rollout.number)
    drill = chapter.of_version(home, "drill", version) / DRILL_FILE
    for source, target in ((looks, timeline.LOOKS_FILE), (drill, DRILL_FILE)):
        if source.exists():
            shutil.copyfile(source, folder / target)
    contract = Manifest.load(chapter.of_version(home, "bento", version)).contract
    _gather_logs(chapter, home, contract, rollout, folder)


def _gather_logs(chapter: Chapter, home: Home, contract: Contract, rollout: Rollout, folder: Path) -> None:
    """What the prediction log has to say of a shadow and of an A/B."""
    for step in rollout.plan.steps:
        log = _log(home, rollout, step) if step.kind in ("shadow", "ab") else None
        if log and step.kind == "shadow":
            output = chapter.spec.gate.output or contract.outputs[0].name
            pairs = agreement(log.pairs(output), same(chapter.spec.gate, contract, output))
            log.with_inputs(pairs).save(folder)
        elif log:
            _experiment(chapter, home, contract, log, step, rollout).save(folder)


def _log(home: Home, rollout: Rollout, step: Step) -> PairedLog | None:
    """What both releases logged during the step; None where it never began, or nothing was logged."""
    folder, at = home.prediction_log(rollout.canary.model), rollout.plan.steps.index(step)
    began = [taken.at for taken in rollout.state.history if taken.step == at]
    if not began or not any(folder.glob("*.parquet")):
        return None
    ended = [taken.at for taken in rollout.state.history if taken.at > began[0]] or [rollout.state.at]
    between = (datetime.fromtimestamp(began[0], UTC), datetime.fromtimestamp(ended[0], UTC))
    return PairedLog(folder, rollout.stable.release_id, rollout.canary.release_id, between)


def _experiment(
    chapter: Chapter, home: Home, contract: Contract, log: PairedLog, step: Step, rollout: Rollout
) -> Experiment:
    """By users: the metrics that are told by user, and the mean of an output that is one number."""
    spec, found, missing = chapter.spec.rollout, [], {}
    for measure in (Measure(**each) for each in rollout.setting.get("metrics", ())):
        try:
            users = _users_of(measure, home, log, rollout, spec.stratify_by)
        except MeasureFailed as failed:
            missing[measure.name] = str(failed)
            continue
        needed = rollout.setting.get("needed_users", {}).get(measure.name)
        found.append(stratified(users, measure.name, step.weight, spec.alpha, needed))
    output = chapter.spec.gate.output or contract.outputs[0].name
    field = next(each for each in contract.outputs if each.name == output)
    if len(field.shape) == 1 and field.categories is None:
        users = log.users(f"output_{output}", spec.stratify_by)
        found.append(stratified(users, f"mean {output}", step.weight, spec.alpha))
    return Experiment(tuple(found), missing)


def _users_of(measure: Measure, home: Home, log: PairedLog, rollout: Rollout, stratum: str) -> pd.DataFrame:
    """A metric by users. Raises MeasureFailed."""
    since, until = (time.timestamp() for time in log.between)
    spans = dict.fromkeys((log.stable, log.canary), (since, until))
    with TemporaryDirectory() as temp:
        file = Path(temp) / "users.parquet"
        take(measure, rollout.canary.model, spans, home, file)
        if not file.exists():
            raise MeasureFailed("its table has no column user")
        return log.users_of(file, stratum)


def same(gate: GateSpec, contract: Contract, output: str) -> Same:
    """When two answers are the same decision: the same class, or as close as batch mates may move them."""
    field = next(each for each in contract.outputs if each.name == output)
    if field.categories is not None or np.dtype(field.dtype).kind in "iub":
        return Same("label")
    if gate.metric in CLASSIFIES:
        return Same("probability", gate.threshold)
    return Same("value", gate.max_batch_shift)
