"""Reports for people: notebooks run with a release's or a month's own figures, kept with it."""

from collections.abc import Sequence

import dagster as dg

from bentos.manifest import sha256
from pipelines.assets.common import Chapter, report_metadata
from pipelines.assets.monitor import PERFORMANCE_FILE
from pipelines.core.home import Home
from pipelines.core.spec import ScoringSpec
from pipelines.gateways.notebooks import Notebooks, Report


def report(chapter: Chapter, scoring: ScoringSpec | None) -> Sequence:
    """The chapter's assets."""
    return [_release_report(chapter), *([_monitoring_report(chapter, scoring)] if scoring else [])]


def _release_report(chapter: Chapter) -> dg.AssetsDefinition:
    name = chapter.spec.name

    @dg.asset(
        key=chapter.key("release_report"),
        deps=[chapter.key("load_test"), chapter.key("deployment")],
        partitions_def=chapter.versions,
        group_name=name,
        kinds={"jupyter"},
    )
    def release_report(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        notebooks: dg.ResourceParam[Notebooks],
    ) -> dg.MaterializeResult:
        """The release as a report: what was decided and why, every gate, the rungs, the load test.

        An executed notebook and its HTML, which reads offline.
        """
        version = context.partition_key
        folder = chapter.of_version(home, "release_report", version)
        parameters = {"release_dir": str(folder.parent), "model": name, "version": version}
        return _result(notebooks.run("release_review", parameters, folder))

    return release_report


def _monitoring_report(chapter: Chapter, scoring: ScoringSpec) -> dg.AssetsDefinition:
    name = chapter.spec.name
    early = dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
    performance = dg.AssetDep(chapter.key("performance"), partition_mapping=early)

    @dg.asset(
        key=chapter.key("monitoring_report"),
        deps=[chapter.key("drift"), *([performance] if scoring.labels else [])],
        partitions_def=chapter.months,
        group_name=name,
        kinds={"jupyter"},
    )
    def monitoring_report(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        notebooks: dg.ResourceParam[Notebooks],
    ) -> dg.MaterializeResult:
        """The month as a report: which columns drifted and how, and how right the scores were.

        Labels arrive later; until then the report says that they have not.
        """
        month = context.partition_key
        known = chapter.of_month(home, "performance", month) / PERFORMANCE_FILE
        parameters = {
            "drift_dir": str(chapter.of_month(home, "drift", month)),
            "performance_file": str(known) if known.exists() else "",
            "model": name,
            "month": month,
        }
        folder = chapter.of_month(home, "monitoring_report", month)
        return _result(notebooks.run("drift_review", parameters, folder))

    return monitoring_report


def _result(made: Report) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        metadata=report_metadata(made), data_version=dg.DataVersion(sha256(made.html))
    )
