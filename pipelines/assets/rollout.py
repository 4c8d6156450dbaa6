"""From a bento that passed everything to the release that serves."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from bentos.engines.engine import PROVIDERS, Engine
from bentos.manifest import MODEL_FILE, Manifest
from pipelines.assets.common import Chapter, plain, verdict_check
from pipelines.assets.drill import runs_from
from pipelines.core.evidence import verify
from pipelines.core.exhibits import keep
from pipelines.core.gathering import gather
from pipelines.core.home import Home
from pipelines.core.release import Release
from pipelines.core.rollout.answers import answers_of
from pipelines.core.rollout.observation import Moments
from pipelines.core.rollout.plan import Plan, Step
from pipelines.core.rollout.sample_size import users_for_metric
from pipelines.core.rollout.standing import Rollout
from pipelines.core.rollout.watch import Measure
from pipelines.core.rows import read_rows, sample, to_tensors
from pipelines.core.spec import RolloutSpec
from pipelines.core.texts import tokenizer_of
from pipelines.core.verdict import Verdict
from pipelines.gateways.alias import settle
from pipelines.gateways.containers import Containers
from pipelines.gateways.deployments import Deployments
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.measures import MeasureFailed, Spans
from pipelines.gateways.measuring import take
from pipelines.gateways.registry import Registry
from pipelines.gateways.tables import replacing_folder

ROLLED_OUT = "rolled_out"
OUTCOME_FILE = "outcome.json"
AT_ONCE = {"number": None, "outcome": "deployed"}
ROLLOUT_TAG = "seatrial/rollout"
"""Of a run that only records how the rollout of this number ended."""
ANSWER_ROWS = 2000


def rollout(chapter: Chapter) -> Sequence:
    """The chapter's assets and checks."""
    return [
        _deployment(chapter),
        _healthy(chapter),
        verdict_check(
            chapter, "deployment", ROLLED_OUT,
            "The release did no harm in its rollout and has all users; or it is an experiment, concluded.",
            blocking=False,
        ),
    ]  # fmt: skip


def _deployment(chapter: Chapter) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("deployment"),
        deps=[chapter.key(name) for name in ("load_test", *runs_from(chapter), "drill")],
        partitions_def=chapter.versions,
        group_name=spec.name,
        kinds={"envoy", "bentoml"},
        code_version=spec.serving.path,
    )
    def deployment(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        deployments: dg.ResourceParam[Deployments],
        ledger: dg.ResourceParam[Ledger],
        registry: dg.ResourceParam[Registry],
        containers: dg.ResourceParam[Containers],
    ) -> dg.MaterializeResult:
        """The release behind the shared address, and how it came there.

        All evidence is read again first: every gate passed, about this very model file and bento, compared
        with the version that serves now. The first release serves at once. A later one is rolled out step by
        step by a process of its own, which this run only follows: it goes on, and decides, without Dagster.
        """
        version = context.partition_key
        number = context.run.tags.get(ROLLOUT_TAG)
        if number is None:
            begun = _begin(chapter, home, deployments, ledger, containers, version)
        else:
            begun = next(one for one in ledger.standing(spec.name).rollouts if one.number == int(number))
        if begun is not None:
            begun = _followed(context, deployments, begun, spec.rollout.follow_seconds)
        settle(ledger, registry, spec.name)
        release = begun.canary if begun else ledger.production(spec.name)
        assert release
        verdict = _verdict(begun, release)
        with replacing_folder(chapter.of_version(home, "deployment", version)) as folder:
            verdict.save(folder)
            told = {"number": begun.number, "outcome": begun.outcome} if begun else AT_ONCE
            (folder / OUTCOME_FILE).write_text(json.dumps(told))
        return dg.MaterializeResult(
            metadata={
                "address": dg.MetadataValue.url(deployments.status(spec.name)["address"]),
                "release_id": release.release_id,
                "rung": release.rung,
                "rollout": verdict.why,
                **plain({"needed_users": begun.setting.get("needed_users") if begun else None}),
                **{name: why for name, why in release.evidence.items() if isinstance(why, str)},
            },
            data_version=dg.DataVersion(f"{release.release_id} {verdict.outcome}"),
        )

    return deployment


def _begin(
    chapter: Chapter,
    home: Home,
    deployments: Deployments,
    ledger: Ledger,
    containers: Containers,
    version: str,
) -> Rollout | None:
    """Put the version into production at once, where that is so wished or nothing serves yet; else begin to
    roll it out."""
    plan = chapter.spec.rollout.plan()
    release = verified_release(chapter, home, ledger, containers, version)
    serving = ledger.production(chapter.spec.name)
    if plan is None or serving is None or serving.release_id == release.release_id:
        deployments.take_over(release)
        return None
    return deployments.begin(release, plan, _setting(chapter, home, release, serving, plan))


def _setting(
    chapter: Chapter, home: Home, release: Release, stable: Release, plan: Plan
) -> Mapping[str, Any]:
    """What the controller has to know beside the plan: how long stable is kept ready afterwards, the bins
    that answers are counted in, and where metrics come from; for the report, how many users an A/B takes."""
    spec = chapter.spec.rollout
    setting: dict[str, Any] = {"standby_seconds": spec.standby_seconds}
    setting["metrics"] = [metric.measure().to_dict() for metric in spec.metrics]
    if ab := next((step for step in plan.steps if step.kind == "ab"), None):
        setting["needed_users"] = _needed_users(home, spec, stable, ab, plan.alpha_of_step)
    if spec.max_prediction_distance is not None:
        artifact = home.root / release.artifact
        manifest = Manifest.load(chapter.of_version(home, "bento", release.version))
        engine = Engine(artifact / MODEL_FILE, manifest.contract, providers=PROVIDERS["cpu"])
        rows = sample(read_rows(home.data(chapter.spec.data.holdout), "holdout"), ANSWER_ROWS)
        tokenizer = tokenizer_of(manifest.contract, artifact)
        outputs = engine.run(to_tensors(manifest.contract, rows, "holdout", tokenizer))
        setting["answers"] = answers_of(manifest.contract, outputs).to_dict()
    return setting


def _needed_users(
    home: Home, spec: RolloutSpec, stable: Release, step: Step, alpha: float
) -> dict[str, int | None]:
    """How many users an A/B takes to prove that a metric lost no more than its margin, by what stable had of
    it for as long as the A/B takes at least. None where nothing may be lost, or that is not known and there
    are no limits either."""
    now, share = time.time(), alpha / len(step.guardrails)
    spans = {stable.release_id: (now - step.min_seconds, now)}
    return {
        each.name: users_for_metric(
            each.guardrail(), _past(home, each.measure(), stable, spans), step.weight, share
        )
        for each in spec.metrics
    }


def _past(home: Home, measure: Measure, stable: Release, spans: Spans) -> Moments | None:
    try:
        return take(measure, stable.model, spans, home).get(stable.release_id)
    except MeasureFailed:  # there may be no past, or no labels yet; the rollout tells what is wrong for good
        return None


def _followed(
    context: dg.AssetExecutionContext, deployments: Deployments, rollout: Rollout, seconds: float
) -> Rollout:
    """As it is when it is over, or after so many seconds."""
    for metric, needed in rollout.setting.get("needed_users", {}).items():
        unknown = "not known, for want of a margin, or of both a past and limits (between)"
        context.log.info(f"users that the A/B takes for {metric}: {f'{needed:,}' if needed else unknown}")
    for now in deployments.follow(rollout.canary.model, rollout.number, seconds):
        _tell(context, now)
        rollout = now
    return rollout


def _tell(context: dg.AssetExecutionContext, rollout: Rollout) -> None:
    """Where the rollout stands: in Dagster's log, and at a terminal."""
    state = rollout.state
    said = f"{rollout.canary.release_id}: {state.phase} at {100 * state.weight:g} % of the users: {state.why}"
    context.log.info(said)
    if sys.stderr.isatty():
        sys.stderr.write(f"  {said}\n")


def _verdict(rollout: Rollout | None, release: Release) -> Verdict:
    if rollout is None:
        return Verdict(ROLLED_OUT, "pass", release.release_id, ("it took over at once",))
    numbers = {"rollout": rollout.number, "weight": rollout.state.weight}
    if rollout.outcome is None:
        why = f"the rollout goes on: {rollout.state.why}"
        return Verdict(ROLLED_OUT, "inconclusive", release.release_id, (why,), numbers)
    outcome = "fail" if rollout.outcome == "rolled_back" else "pass"
    return Verdict(ROLLED_OUT, outcome, release.release_id, (rollout.state.why,), numbers)


def verified_release(
    chapter: Chapter, home: Home, ledger: Ledger, containers: Containers, version: str
) -> Release:
    """The release of a version, with all evidence read again: it is gathered in a dossier, which is kept with
    the files that it speaks of. Raises EvidenceMissing unless all of it holds, and one can go back to what
    serves."""
    spec, serving = chapter.spec, ledger.standing(chapter.spec.name)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    dossier = gather(
        home, spec.name, version, ledger.head(), now,
        path=spec.serving.path, registered=spec.registered_name,
        in_container=spec.serving.runtime == "container", max_rps=spec.serving.max_rps,
    )  # fmt: skip
    stable = serving.production
    again = stable is not None and stable.release_id == dossier.release.release_id
    compared = stable.version if stable else None
    verify(dossier, home.root, containers.digest, compared, serving.former if again else stable)
    dossier.save(chapter.of_version(home, "dossier", version))
    keep(dossier.exhibits.values(), home.root, home.evidence)
    return dossier.judged()


def _healthy(chapter: Chapter) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=chapter.key("deployment"),
        name="healthy",
        description="What is in production answers through the shared address.",
    )
    def healthy(
        context: dg.AssetCheckExecutionContext, deployments: dg.ResourceParam[Deployments]
    ) -> dg.AssetCheckResult:
        status = deployments.status(chapter.spec.name)
        return dg.AssetCheckResult(
            passed=bool(status["ready"]),
            description=f"{status['release_id']} is {status['state']} at {status['address']}",
        )

    return healthy
