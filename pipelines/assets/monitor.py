"""Watching a release: does the month look like the reference, and were its answers right?"""

import json
from collections.abc import Sequence

import dagster as dg
import pandas as pd

from bentos.engines.engine import Engine
from pipelines.assets.common import Chapter, verdict_check
from pipelines.assets.score import SCORES_FILE, SUMMARY_FILE, production, production_engine
from pipelines.core.drift import measure_drift, with_text_length
from pipelines.core.errors import FileMissing
from pipelines.core.evaluate import predict
from pipelines.core.home import Home
from pipelines.core.ladder import Ladder
from pipelines.core.metrics import metric_of
from pipelines.core.performance import measure_performance
from pipelines.core.release import Release
from pipelines.core.rows import digest_of, read_rows, sample, to_tensors
from pipelines.core.spec import ScoringSpec
from pipelines.core.texts import Tokenizes, tokenizer_of
from pipelines.core.trial import BATCH_ROWS
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.tables import replacing_folder

DRIFT_FILE, DRIFT_PAGE, PERFORMANCE_FILE = "drift.json", "drift.html", "performance.json"


def monitor(chapter: Chapter, scoring: ScoringSpec) -> Sequence:
    """The chapter's assets and checks. Neither check blocks: what drifted is still to be reported."""
    watched = [
        _drift(chapter, scoring),
        verdict_check(
            chapter, "drift", "no_drift",
            "The month's inputs and predictions are distributed like the reference's.",
            monthly=True, blocking=False, severity=dg.AssetCheckSeverity.WARN,
        ),
    ]  # fmt: skip
    if scoring.labels is None:
        return watched
    return [
        *watched,
        _performance(chapter, scoring, scoring.labels),
        verdict_check(
            chapter, "performance", "performance_holds",
            "The month's scores were about as accurate as those of the holdout.",
            monthly=True, blocking=False,
        ),
    ]  # fmt: skip


def _drift(chapter: Chapter, scoring: ScoringSpec) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("drift"),
        deps=[chapter.key("scores")],
        partitions_def=chapter.months,
        group_name=spec.name,
        kinds={"evidently"},
        code_version=spec.monitoring.digest(),
    )
    def drift(
        context: dg.AssetExecutionContext, home: dg.ResourceParam[Home], ledger: dg.ResourceParam[Ledger]
    ) -> dg.MaterializeResult:
        """How far the month's inputs and predictions moved from the reference, column by column.

        Every column has its own method and threshold; too few rows are inconclusive. Evidently's page is
        kept with the numbers.
        """
        month = context.partition_key
        scorer = _scorer(chapter, home, ledger, month)
        engine = production_engine(home, scorer)
        tokenizer = tokenizer_of(engine.contract, home.root / scorer.artifact)
        reference, current = _sides(chapter, scoring, home, engine, tokenizer, month)
        with replacing_folder(chapter.of_month(home, "drift", month)) as folder:
            report = measure_drift(
                reference,
                current,
                engine.contract,
                spec.monitoring,
                folder / DRIFT_PAGE,
                subject=month,
                month=month,
            )
            report.save(folder / DRIFT_FILE)
            report.verdict.save(folder)
            for name, frame in {"reference": reference, "current": current}.items():
                sample(frame, spec.monitoring.max_rows).to_parquet(folder / f"{name}.parquet", index=False)
        drifted = [column.column for column in report.columns if column.drifted]
        page = chapter.of_month(home, "drift", month) / DRIFT_PAGE
        return dg.MaterializeResult(
            metadata={
                "verdict": f"{report.verdict.outcome}: {report.verdict.why}",
                "drifted": ", ".join(drifted) or "none",
                **({"page": dg.MetadataValue.path(page)} if page.exists() else {}),
            },
            data_version=dg.DataVersion(digest_of(json.dumps(report.to_dict()))),
        )

    return drift


def _scorer(chapter: Chapter, home: Home, ledger: Ledger, month: str) -> Release:
    """The release that made the month's scores; another one may serve by now."""
    summary = chapter.of_month(home, "scores", month) / SUMMARY_FILE
    if not summary.exists():
        raise FileMissing("scores", summary)
    release_id = json.loads(summary.read_text())["release_id"]
    known = (entry.release for entry in reversed(ledger.history(chapter.spec.name)))
    found = next((release for release in known if release and release.release_id == release_id), None)
    return found or production(chapter.spec.name, ledger)


def _sides(
    chapter: Chapter,
    scoring: ScoringSpec,
    home: Home,
    engine: Engine,
    tokenizer: Tokenizes | None,
    month: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reference and current rows, with the outputs of the release that scored and the lengths of texts."""
    spec = chapter.spec
    reference = read_rows(home.data(spec.data.reference), "reference")
    tensors = to_tensors(engine.contract, reference, "reference", tokenizer)
    outputs = predict(engine, tensors, BATCH_ROWS)
    current = read_rows(home.data(scoring.input.format(month=month)), "scoring input")
    scores = read_rows(chapter.of_month(home, "scores", month) / SCORES_FILE, "scores")
    for name, values in outputs.items():
        reference[name] = list(values)
    current = current.drop(columns=list(outputs), errors="ignore").merge(scores, on=spec.data.key)
    return with_text_length(engine.contract, reference), with_text_length(engine.contract, current)


def _performance(chapter: Chapter, scoring: ScoringSpec, labels: str) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("performance"),
        deps=[
            chapter.key("scores"),
            *(dg.AssetKey.from_user_string(key) for key in (scoring.labels_asset,) if key),
        ],
        partitions_def=chapter.labelled_months,
        group_name=spec.name,
        kinds={"numpy"},
        code_version=digest_of(spec.monitoring.digest(), spec.gate.metric),
    )
    def performance(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
        """How right the month's scores were, once its labels have arrived.

        The metric of the gate with its interval, against the holdout's at release; for two classes also log
        loss, Brier score, and the share of positives predicted and seen.
        """
        month = context.partition_key
        source = chapter.of_month(home, "scores", month)
        scores, version = read_rows(source / SCORES_FILE, "scores"), _version_of(source)
        truth = read_rows(home.data(labels.format(month=month)), "labels")
        ladder = Ladder.load(chapter.of_version(home, "release_model", version) / "ladder.json")
        with replacing_folder(chapter.of_month(home, "performance", month)) as folder:
            report = measure_performance(
                scores,
                truth,
                key=spec.data.key,
                label=spec.data.label,
                output=spec.gate.output or next(name for name in scores.columns if name != spec.data.key),
                metric=metric_of(spec.gate.metric, spec.gate.threshold),
                holdout_value=ladder.accuracy,
                spec=spec.monitoring,
                subject=month,
                month=month,
            )
            report.save(folder / PERFORMANCE_FILE)
            report.verdict.save(folder)
        return dg.MaterializeResult(
            metadata={"verdict": f"{report.verdict.outcome}: {report.verdict.why}", **report.verdict.numbers},
            data_version=dg.DataVersion(digest_of(json.dumps(report.to_dict()))),
        )

    return performance


def _version_of(folder) -> str:
    """The model version that made these scores."""
    return json.loads((folder / SUMMARY_FILE).read_text())["version"]
