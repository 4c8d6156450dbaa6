"""From a bento that passed everything to the release that serves."""

import json
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from bentos.manifest import Manifest
from pipelines.assets.common import Chapter
from pipelines.assets.package import BENTO_FILE
from pipelines.core.errors import EvidenceMissing
from pipelines.core.evidence import GATES, Subjects, verify_evidence
from pipelines.core.home import Home
from pipelines.gateways.deployments import Deployments, Release
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.registry import Registry

CHAMPION = "champion"


def rollout(chapter: Chapter) -> Sequence:
    """The chapter's assets and checks."""
    return [_deployment(chapter), _healthy(chapter)]


def _deployment(chapter: Chapter) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("deployment"),
        deps=[chapter.key("load_test")],
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
    ) -> dg.MaterializeResult:
        """The release that serves behind the shared address.

        All evidence is read again first: every gate passed, about this very model file and bento, compared
        with the version that serves now. The new service is ready before it gets a request, the old one ends
        when its last request was answered; should anything fail, the old one goes on.
        """
        version = context.partition_key
        release = verified_release(chapter, home, ledger, version)
        deployments.take_over(release)
        registry.set_alias(spec.registered_name, CHAMPION, version)
        status = deployments.status(spec.name)
        return dg.MaterializeResult(
            metadata={
                "address": dg.MetadataValue.url(status["address"]),
                "release_id": release.release_id,
                "rung": release.rung,
                **release.evidence,
            },
            data_version=dg.DataVersion(release.release_id),
        )

    return deployment


def verified_release(chapter: Chapter, home: Home, ledger: Ledger, version: str) -> Release:
    """The release of a version with its evidence. Raises EvidenceMissing unless all of it holds."""
    name = chapter.spec.name
    folders = {asset: chapter.of_version(home, asset, version) for asset in (*GATES, "bento")}
    try:
        bento = json.loads((folders["bento"] / BENTO_FILE).read_text())
    except FileNotFoundError as error:
        raise EvidenceMissing(f"{name} version {version}", "its bento was never built") from error
    manifest = Manifest.load(folders["bento"])
    serving = ledger.production(name)
    compared = None if serving is None or serving.version == version else serving.version
    subjects = Subjects(manifest.sha256, bento["tag"])
    verdicts = verify_evidence(f"{name} version {version}", folders, Path(bento["model"]), subjects, compared)
    evidence = {"model_sha256": manifest.sha256, "files": dict(manifest.files), **verdicts}
    artifact = str(folders["release_model"].relative_to(home.root))
    return Release(
        name,
        version,
        manifest.release_id,
        manifest.rung,
        bento["tag"],
        chapter.spec.serving.path,
        artifact,
        evidence,
    )


def _healthy(chapter: Chapter) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=chapter.key("deployment"),
        name="healthy",
        description="The release answers through the shared address.",
    )
    def healthy(
        context: dg.AssetCheckExecutionContext,
        deployments: dg.ResourceParam[Deployments],
        ledger: dg.ResourceParam[Ledger],
    ) -> dg.AssetCheckResult:
        status, entry = deployments.status(chapter.spec.name), ledger.production(chapter.spec.name)
        serves = entry is not None and entry.version == context.partition_key
        return dg.AssetCheckResult(
            passed=bool(status["ready"]) and serves,
            description=f"{status['release_id']} is {status['state']} at {status['address']}",
        )

    return healthy
