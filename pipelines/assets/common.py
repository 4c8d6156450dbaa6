"""What the chapters share: a model's keys, partitions and folders, and checks that read recorded verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlencode

import dagster as dg

from pipelines.core.home import Home
from pipelines.core.spec import ModelSpec
from pipelines.core.verdict import Verdict
from pipelines.gateways.notebooks import Report

CODE_LOCATION = "seatrial"
"""As pyproject.toml calls it. The UI shows notebooks that lie below the folder it was started in."""


@dataclass(frozen=True)
class Chapter:
    """One served model, as its chapters see it."""

    spec: ModelSpec

    def key(self, asset: str) -> dg.AssetKey:
        return dg.AssetKey([self.spec.name, asset])

    @cached_property
    def versions(self) -> dg.DynamicPartitionsDefinition:
        """One partition a model version."""
        return dg.DynamicPartitionsDefinition(name=f"{self.spec.name}_versions")

    @cached_property
    def months(self) -> dg.MonthlyPartitionsDefinition:
        """One partition a month of scoring, there once the month has ended."""
        return self._monthly(0)

    @cached_property
    def labelled_months(self) -> dg.MonthlyPartitionsDefinition:
        """One partition a month, there once its labels have arrived."""
        assert self.spec.scoring
        return self._monthly(-self.spec.scoring.labels_delay_months)

    def _monthly(self, end_offset: int) -> dg.MonthlyPartitionsDefinition:
        assert self.spec.scoring
        return monthly(self.spec.scoring.start, self.spec.scoring.end, end_offset)

    def of_version(self, home: Home, asset: str, version: str) -> Path:
        return home.artifact(self.spec.name, version, asset)

    def of_month(self, home: Home, asset: str, month: str) -> Path:
        return home.month(self.spec.name, asset, month)


def monthly(start: str, end: str | None, end_offset: int = 0) -> dg.MonthlyPartitionsDefinition:
    """Monthly partitions named like 2013-04; `end` is the month after the last."""
    return dg.MonthlyPartitionsDefinition(start_date=start, end_date=end, fmt="%Y-%m", end_offset=end_offset)


def verdict_check(
    chapter: Chapter,
    asset: str,
    gate: str,
    description: str,
    *,
    monthly: bool = False,
    blocking: bool = True,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetChecksDefinition:
    """A check that is green when the verdict recorded beside the asset is a pass.

    The asset measures and records; the check, in a step of its own, holds back what comes after.
    """
    place = chapter.of_month if monthly else chapter.of_version

    @dg.asset_check(asset=chapter.key(asset), name=gate, description=description, blocking=blocking)
    def check(context: dg.AssetCheckExecutionContext, home: dg.ResourceParam[Home]) -> dg.AssetCheckResult:
        verdict = Verdict.load(place(home, asset, context.partition_key), gate)
        thin = verdict.outcome == "inconclusive" and not blocking
        return dg.AssetCheckResult(
            passed=verdict.passed,
            severity=dg.AssetCheckSeverity.WARN if thin else severity,
            description=f"{verdict.outcome}: {verdict.why}",
            metadata=plain(verdict.numbers),
        )

    return check


def plain(numbers: Mapping) -> dict:
    """Metadata without the entries that have no value."""
    return {name: number for name, number in numbers.items() if number is not None}


def report_metadata(made: Report) -> dict[str, dg.MetadataValue]:
    """Where to read a report: in the UI, as a notebook, as a page."""
    view = urlencode({"path": str(made.notebook), "repoLocName": CODE_LOCATION})
    return {
        "report": dg.MetadataValue.url(f"/notebook?{view}"),
        "notebook": dg.MetadataValue.notebook(made.notebook),
        "html": dg.MetadataValue.path(made.html),
    }
