"""From the chosen ONNX file to a bento: what it costs, the plan to serve it by, the build."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from bentos.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, sha256
from pipelines.assets.common import Chapter, verdict_check
from pipelines.assets.optimize import FETCHED_FILE
from pipelines.core.capacity.gate import PLAN_GATE, judge_plan
from pipelines.core.capacity.measuring import measure
from pipelines.core.capacity.search import Demand, Proposal, propose
from pipelines.core.contracts import load_contract
from pipelines.core.exhibits import digest, seal
from pipelines.core.home import Home
from pipelines.core.ladder import Ladder
from pipelines.core.packing import make_manifest, plan_digest, slo_of, source_digest, wished_plan
from pipelines.core.rows import digest_of, longest, read_rows, sample, to_records, to_tensors
from pipelines.core.texts import tokenizer_of
from pipelines.gateways.bento_store import BentoStore
from pipelines.gateways.machine import cores, processor
from pipelines.gateways.tables import replacing_folder

PROJECT = Path(__file__).parents[2]
BENTO_FILE = "bento.json"
LOAD_ROWS, PROFILE_ROWS = 5000, 1000
"""Of the reference, for requests and for what they cost."""


def package(chapter: Chapter) -> Sequence:
    """The chapter's assets and checks."""
    return [
        _serving_plan(chapter),
        verdict_check(
            chapter, "serving_plan", PLAN_GATE,
            "The plan should keep the promise at twice the expected peak; the load test decides.",
            blocking=False, severity=dg.AssetCheckSeverity.WARN,
        ),
        _bento(chapter),
    ]  # fmt: skip


def _serving_plan(chapter: Chapter) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("serving_plan"),
        deps=[chapter.key("release_model")],
        partitions_def=chapter.versions,
        group_name=spec.name,
        kinds={"onnx"},
        code_version=spec.serving.digest(),
    )
    def serving_plan(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
        """How to serve the model: workers, threads, rows in a batch and in the queue.

        What batches of each size and length cost is measured on a warm session; then the plan is searched
        that keeps the promise at twice the expected peak with the fewest cores, by a simulation of the
        service's own batcher. What the settings fix stays as it is.
        """
        version = context.partition_key
        source = chapter.of_version(home, "release_model", version)
        winner, contract = Ladder.load(source / "ladder.json").winner, load_contract(source)
        rows = sample(read_rows(home.data(spec.data.reference), "reference"), LOAD_ROWS)
        tokenizer = tokenizer_of(contract, source)
        tensors = to_tensors(contract, rows, "reference", tokenizer)
        wished, fixed = wished_plan(spec.serving, contract, longest(contract, tensors))
        slo = slo_of(spec.serving)
        with replacing_folder(chapter.of_version(home, "serving_plan", version)) as folder:
            profile = measure(
                source / MODEL_FILE, contract, to_records(contract, rows)[:PROFILE_ROWS], wished,
                slo.p99_ms, time.perf_counter, spec.serving.cores or cores(), processor(), tokenizer,
            )  # fmt: skip
            profile.save(folder)
            demand = Demand(slo.expected_peak_rps, slo.p99_ms, slo.max_error_rate)
            proposal = propose(wished, fixed, profile, demand)
            proposal.save(folder)
            verdict = judge_plan(proposal, winner.sha256).save(folder)
        plan = proposal.plan
        return dg.MaterializeResult(
            metadata={
                "why": verdict.why,
                "workers": plan.workers,
                "threads": plan.threads,
                "max_batch_size": plan.max_batch_size,
                "max_latency_ms": plan.max_latency_ms,
            },
            data_version=dg.DataVersion(plan_digest(plan)),
        )

    return serving_plan


def _bento(chapter: Chapter) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("bento"),
        deps=[chapter.key("release_model"), chapter.key("serving_plan")],
        partitions_def=chapter.versions,
        group_name=spec.name,
        kinds={"bentoml"},
        code_version=digest_of(spec.serving.digest(), source_digest(PROJECT)),
    )
    def bento(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        bentos: dg.ResourceParam[BentoStore],
    ) -> dg.MaterializeResult:
        """The release as a bento: model, manifest and service code, with runtime packages only.

        Built by `bentoml build`, which lays down all that the service will ever see.
        """
        version = context.partition_key
        source = chapter.of_version(home, "release_model", version)
        manifest = _manifest(chapter, home, version, source)
        built = bentos.build(source / MODEL_FILE, manifest)
        with replacing_folder(chapter.of_version(home, "bento", version)) as folder:
            # Of a release that was built before, the costs are those that were measured then.
            shutil.copyfile(built.model.with_name(MANIFEST_FILE), folder / MANIFEST_FILE)
            (folder / BENTO_FILE).write_text(json.dumps({"tag": built.tag, "model": str(built.model)}))
            parts = {"bento": built.path, "packed": built.model.parent}
            seal(folder, {name: (path, digest(path)) for name, path in parts.items()})
        return dg.MaterializeResult(
            metadata={
                "tag": built.tag,
                "release_id": manifest.release_id,
                "size_bytes": built.size_bytes,
            },
            data_version=dg.DataVersion(manifest.release_id),
        )

    return bento


def _manifest(chapter: Chapter, home: Home, version: str, source: Path) -> Manifest:
    winner = Ladder.load(source / "ladder.json").winner
    fetched = json.loads((chapter.of_version(home, "registered_model", version) / FETCHED_FILE).read_text())
    contract = load_contract(source)
    return make_manifest(
        chapter.spec.name,
        version,
        winner.rung,
        winner.sha256,
        contract,
        Proposal.load(chapter.of_version(home, "serving_plan", version)).plan,
        slo_of(chapter.spec.serving),
        source_digest(PROJECT),
        provenance={"mlflow_model_id": fetched["model_id"]},
        files={name: sha256(source / name) for name in ([contract.text.file] if contract.text else [])},
    )
