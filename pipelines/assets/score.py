"""Batch scoring: one month's rows through the very ONNX file that is in production."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import dagster as dg
import pandas as pd
import pyarrow.parquet as pq

from bentos.engines.engine import Engine
from bentos.manifest import MODEL_FILE, sha256
from pipelines.assets.common import Chapter, verdict_check
from pipelines.core.contracts import load_contract
from pipelines.core.errors import ContractBroken, EvidenceMissing, NothingInProduction
from pipelines.core.expectations import validate_rows, validate_scores
from pipelines.core.home import Home
from pipelines.core.release import Release
from pipelines.core.rows import read_rows
from pipelines.core.scoring import score_file
from pipelines.core.spec import ScoringSpec
from pipelines.core.texts import tokenizer_of
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.tables import replacing_folder

SCORES_FILE, SUMMARY_FILE = "scores.parquet", "summary.json"


def score(chapter: Chapter, scoring: ScoringSpec) -> Sequence:
    """The chapter's assets and checks."""
    return [
        _scoring_input(chapter, scoring),
        verdict_check(
            chapter, "scoring_input", "expectations",
            "The month's rows have the columns, types, categories and ranges of the contract.", monthly=True,
        ),
        _scores(chapter, scoring),
        _complete(chapter, scoring),
    ]  # fmt: skip


def production(model: str, ledger: Ledger) -> Release:
    """What is in production. Raises NothingInProduction."""
    release = ledger.production(model)
    if release is None:
        raise NothingInProduction(model)
    return release


def production_engine(home: Home, release: Release) -> Engine:
    """The session of the release in production, after the digests of its model and tokenizer were compared
    with the ledger's evidence."""
    folder = home.root / release.artifact
    files = {MODEL_FILE: release.evidence["model_sha256"], **release.evidence.get("files", {})}
    for name, digest in files.items():
        if sha256(folder / name) != digest:
            raise EvidenceMissing(
                f"{release.model} {release.release_id}", f"{folder / name} has changed since"
            )
    return Engine(folder / MODEL_FILE, load_contract(folder))


def _scoring_input(chapter: Chapter, scoring: ScoringSpec) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("scoring_input"),
        deps=[dg.AssetKey.from_user_string(key) for key in (scoring.input_asset,) if key],
        partitions_def=chapter.months,
        group_name=spec.name,
        kinds={"parquet"},
        code_version=scoring.input,
    )
    def scoring_input(
        context: dg.AssetExecutionContext, home: dg.ResourceParam[Home], ledger: dg.ResourceParam[Ledger]
    ) -> dg.MaterializeResult:
        """One month's rows to score, held against the contract of the release in production.

        Great Expectations looks at every row before any is scored: columns, types, categories, ranges, NaN.
        """
        path = home.data(scoring.input.format(month=context.partition_key))
        frame = read_rows(path, "scoring input")
        contract = load_contract(home.root / production(spec.name, ledger).artifact)
        digest = sha256(path)
        validation = validate_rows(contract, frame, "scoring input", key=spec.data.key, subject=digest)
        with replacing_folder(chapter.of_month(home, "scoring_input", context.partition_key)) as folder:
            validation.verdict.save(folder)
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": len(frame),
                "path": dg.MetadataValue.path(path),
                "expectations": dg.MetadataValue.md(validation.markdown),
            },
            data_version=dg.DataVersion(digest),
        )

    return scoring_input


def _scores(chapter: Chapter, scoring: ScoringSpec) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("scores"),
        deps=[
            chapter.key("scoring_input"),
            dg.AssetDep(chapter.key("deployment"), partition_mapping=dg.LastPartitionMapping()),
        ],
        partitions_def=chapter.months,
        group_name=spec.name,
        kinds={"onnx", "parquet"},
    )
    def scores(
        context: dg.AssetExecutionContext, home: dg.ResourceParam[Home], ledger: dg.ResourceParam[Ledger]
    ) -> dg.MaterializeResult:
        """One score for each row of the month, by the ONNX file of the release in production.

        Streamed from Parquet through ONNX Runtime to Parquet, validated by Great Expectations, and only then
        put in the place of the month's former scores, in one step.
        """
        month, release = context.partition_key, production(spec.name, ledger)
        engine = production_engine(home, release)
        source = home.data(scoring.input.format(month=month))
        with replacing_folder(chapter.of_month(home, "scores", month)) as folder:
            target, contract = folder / SCORES_FILE, engine.contract
            tokenizer = tokenizer_of(contract, home.root / release.artifact)
            summary = score_file(
                source, target, engine, contract, spec.data.key, scoring.batch_rows, tokenizer
            )
            rows, frame = pq.read_metadata(source).num_rows, pd.read_parquet(target)
            validation = validate_scores(contract, frame, spec.data.key, rows, subject=summary.sha256)
            if not validation.verdict.passed:
                raise ContractBroken(
                    f"The scores of {month}", validation.verdict.why, "the former scores stay"
                )
            about = {"version": release.version, "release_id": release.release_id, **asdict(summary)}
            (folder / SUMMARY_FILE).write_text(json.dumps(about, indent=2))
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": summary.rows,
                "release_id": release.release_id,
                "path": dg.MetadataValue.path(chapter.of_month(home, "scores", month) / SCORES_FILE),
                "expectations": dg.MetadataValue.md(validation.markdown),
            },
            data_version=dg.DataVersion(summary.sha256),
        )

    return scores


def _complete(chapter: Chapter, scoring: ScoringSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=chapter.key("scores"),
        name="complete",
        description="Every input row has a score, and the committed file is the one that was validated.",
        blocking=True,
    )
    def complete(context: dg.AssetCheckExecutionContext, home: dg.ResourceParam[Home]) -> dg.AssetCheckResult:
        month = context.partition_key
        folder = chapter.of_month(home, "scores", month)
        summary = json.loads((folder / SUMMARY_FILE).read_text())
        expected = pq.read_metadata(home.data(scoring.input.format(month=month))).num_rows
        found = pq.read_metadata(folder / SCORES_FILE).num_rows
        intact = sha256(folder / SCORES_FILE) == summary["sha256"]
        return dg.AssetCheckResult(
            passed=found == expected and intact,
            description=f"{found:,} scores, {expected:,} rows, {'as written' if intact else 'altered since'}",
        )

    return complete
