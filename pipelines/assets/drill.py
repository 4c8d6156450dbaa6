"""The rollback of a release, rehearsed before it is needed."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from bentos.manifest import Manifest
from pipelines.assets.common import Chapter, verdict_check
from pipelines.assets.image import IMAGE_FILE
from pipelines.assets.package import BENTO_FILE
from pipelines.core.exhibits import seal
from pipelines.core.home import Home
from pipelines.core.release import Release
from pipelines.core.rollout.rehearsal import REHEARSED, judge_drill
from pipelines.core.rows import read_rows, sample, to_records
from pipelines.gateways.deployments import Deployments
from pipelines.gateways.drill import asking
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.payloads import payloads
from pipelines.gateways.tables import replacing_folder

DRILL_ROWS = 200


def drill(chapter: Chapter) -> Sequence:
    """The chapter's assets and checks."""
    return [
        _drill(chapter),
        verdict_check(
            chapter, "drill", REHEARSED,
            "In staging, users are taken back from the release at once, and none of them notices.",
        ),
    ]  # fmt: skip


def runs_from(chapter: Chapter) -> tuple[str, ...]:
    """The asset that a release runs from beside its bento."""
    return ("image",) if chapter.spec.serving.runtime == "container" else ()


def _drill(chapter: Chapter) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("drill"),
        deps=[chapter.key(name) for name in ("load_test", *runs_from(chapter))],
        partitions_def=chapter.versions,
        group_name=spec.name,
        kinds={"envoy", "bentoml"},
        code_version=spec.rollout.digest(),
    )
    def drill(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        deployments: dg.ResourceParam[Deployments],
        ledger: dg.ResourceParam[Ledger],
    ) -> dg.MaterializeResult:
        """A rollback in staging: half of the users of real rows are on the release, and then none.

        They go back to what is in production; of the first release, to itself. How long it took and what it
        cost is part of the evidence.
        """
        version = context.partition_key
        release = _release(chapter, home, version)
        source = chapter.of_version(home, "bento", version)
        rows = sample(read_rows(home.data(spec.data.reference), "reference"), DRILL_ROWS)
        contract = Manifest.load(source).contract
        ask = asking(payloads("json", spec.name, contract, to_records(contract, rows)))
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        rehearsed = deployments.rehearse(ledger.production(spec.name) or release, release, ask, now)
        with replacing_folder(chapter.of_version(home, "drill", version)) as folder:
            rehearsed.save(folder)
            verdict = judge_drill(rehearsed, release.tag, spec.rollout.max_rollback_seconds).save(folder)
            seal(folder)
        return dg.MaterializeResult(
            metadata={"verdict": verdict.why, "seconds_to_zero": rehearsed.seconds_to_zero},
            data_version=dg.DataVersion(f"{release.release_id} {verdict.outcome}"),
        )

    return drill


def _release(chapter: Chapter, home: Home, version: str) -> Release:
    """The version as it would serve, before its evidence is read."""
    source = chapter.of_version(home, "bento", version)
    manifest, bento = Manifest.load(source), json.loads((source / BENTO_FILE).read_text())
    described = chapter.of_version(home, "image", version) / IMAGE_FILE
    runs = json.loads(described.read_text())["reference"] if runs_from(chapter) else ""
    return Release(
        chapter.spec.name, version, manifest.release_id, manifest.rung, bento["tag"],
        chapter.spec.serving.path, "", image=runs,
    )  # fmt: skip
