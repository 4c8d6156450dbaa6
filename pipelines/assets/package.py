"""From the chosen ONNX file to a bento that was tried: build, compare, load."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import dagster as dg
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from bentos.contract import Contract
from bentos.engines.engine import PROVIDERS, Engine
from bentos.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, sha256
from pipelines.assets.common import Chapter, plain, verdict_check
from pipelines.assets.optimize import FETCHED_FILE, SPEEDS_FILE
from pipelines.core.contracts import load_contract
from pipelines.core.home import Home
from pipelines.core.ladder import Ladder
from pipelines.core.latency import fell_behind, judge_load
from pipelines.core.packing import Ask, judge_answers, make_manifest, source_digest
from pipelines.core.rows import digest_of, longest, read_rows, sample, to_records, to_tensors
from pipelines.core.speed import load_speeds
from pipelines.core.texts import tokenizer_of
from pipelines.core.verdict import Verdict
from pipelines.gateways.bento_store import BentoStore
from pipelines.gateways.client import Client
from pipelines.gateways.deployments import Deployments
from pipelines.gateways.tables import replacing_folder
from pipelines.gateways.traffic import LoadResult, Traffic

PROJECT = Path(__file__).parents[2]
BENTO_FILE = "bento.json"
SMOKE_ROWS, LOAD_ROWS = 256, 5000
WARM_UP_SECONDS = 2.0
ATTEMPTS = 3
UNTRIED = "it was not put under load, as it does not answer like its model"


def package(chapter: Chapter) -> Sequence:
    """The chapter's assets and checks."""
    return [
        _bento(chapter),
        _load_test(chapter),
        verdict_check(
            chapter, "load_test", "answers_like_onnx",
            "The built bento, served from its own environment, answers like the ONNX file.",
        ),
        verdict_check(
            chapter, "load_test", "within_slo",
            "p99 and error rate hold at the expected peak and at twice that.",
        ),
    ]  # fmt: skip


def _bento(chapter: Chapter) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("bento"),
        deps=[chapter.key("release_model")],
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
        chapter.spec.serving,
        source_digest(PROJECT),
        provenance={"mlflow_model_id": fetched["model_id"]},
        files={name: sha256(source / name) for name in ([contract.text.file] if contract.text else [])},
        longest=_longest(chapter, home, contract, source),
        speeds=load_speeds(source / SPEEDS_FILE)[winner.rung],
    )


def _longest(chapter: Chapter, home: Home, contract: Contract, source: Path) -> int:
    """The longest row of the reference along dimensions of any length; 0 where there are none."""
    if not any(field.any_length for field in contract.inputs):
        return 0
    rows = sample(read_rows(home.data(chapter.spec.data.reference), "reference"), LOAD_ROWS)
    return longest(contract, to_tensors(contract, rows, "reference", tokenizer_of(contract, source)))


def _load_test(chapter: Chapter) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("load_test"),
        deps=[chapter.key("bento")],
        partitions_def=chapter.versions,
        group_name=spec.name,
        kinds={"bentoml"},
        code_version=spec.serving.digest(),
    )
    def load_test(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        deployments: dg.ResourceParam[Deployments],
        client: dg.ResourceParam[Client],
        traffic: dg.ResourceParam[Traffic],
    ) -> dg.MaterializeResult:
        """The built bento, served from an environment of its own: its answers first, then load.

        It is asked the same rows as the ONNX file. Then Poisson arrivals at the expected peak and at twice
        that: real rows, one a request, never a constant one; latency counts from the intended start of each
        request. A stage in which the generator fell behind is void and measured again, twice at most.
        All samples are kept. A bento that answers wrongly is put under no load.
        """
        version = context.partition_key
        source = chapter.of_version(home, "bento", version)
        bento, manifest = json.loads((source / BENTO_FILE).read_text()), Manifest.load(source)
        with replacing_folder(chapter.of_version(home, "load_test", version)) as folder:
            with deployments.stage(f"{spec.name}.v{version}", bento["tag"]) as url:
                answers = _compare(chapter, home, manifest, bento, partial(client.predict, url)).save(folder)
                if answers.passed:
                    load = _load(
                        chapter, home, manifest, bento, partial(traffic.run, f"{url}/predict"), folder
                    )
                else:
                    load = Verdict("within_slo", "inconclusive", bento["tag"], (UNTRIED,))
            load.save(folder)
        return dg.MaterializeResult(
            metadata={"answers": answers.why, "load": load.why, **plain(load.numbers)},
            data_version=dg.DataVersion(bento["tag"]),
        )

    return load_test


def _compare(chapter: Chapter, home: Home, manifest: Manifest, bento: Mapping, ask: Ask) -> Verdict:
    """Whether the service answers held-out rows like the ONNX file it was built from."""
    spec = chapter.spec
    rows = sample(read_rows(home.data(spec.data.holdout), "holdout"), SMOKE_ROWS)
    engine = Engine(
        Path(bento["model"]), manifest.contract, spec.serving.threads, PROVIDERS[spec.serving.device]
    )
    contract, tokenizer = manifest.contract, tokenizer_of(manifest.contract, Path(bento["model"]).parent)
    expected = engine.run(to_tensors(contract, rows, "holdout", tokenizer))
    tolerance, records = max(spec.gate.parity, spec.gate.max_batch_shift), to_records(contract, rows)
    most = manifest.plan.max_request_rows
    return judge_answers(ask, records, expected, contract, tolerance, bento["tag"], most)


def _load(
    chapter: Chapter,
    home: Home,
    manifest: Manifest,
    bento: Mapping,
    send: Callable[..., LoadResult],
    folder: Path,
) -> Verdict:
    """Put the service under load and judge it. `folder` keeps the figures and all samples."""
    serving = chapter.spec.serving
    rows = sample(read_rows(home.data(chapter.spec.data.reference), "reference"), LOAD_ROWS)
    bodies = [orjson.dumps({"rows": [row]}) for row in to_records(manifest.contract, rows)]
    peak = serving.expected_peak_rps
    stages = [("peak", peak, serving.load_seconds), ("2x peak", 2 * peak, serving.load_seconds)]
    send(bodies, [("warm-up", peak, WARM_UP_SECONDS)], seed=1)
    runs, offered = _measured(partial(send, bodies), stages, serving.p99_ms)
    pq.write_table(pa.concat_tables(run.samples for run in runs), folder / "samples.parquet")
    measured = [stage for run in runs for stage in run.stages]
    limits = {"p99_limit_ms": serving.p99_ms, "max_error_rate": serving.max_error_rate}
    figures = [asdict(stage) for stage in measured]
    load = {**limits, "offered_seconds": WARM_UP_SECONDS + offered, "stages": figures}
    (folder / "load.json").write_text(json.dumps(load, indent=2))
    return judge_load(measured, subject=bento["tag"], **limits)


def _measured(
    send: Callable[..., LoadResult], stages: list[tuple[str, float, float]], p99_ms: float
) -> tuple[list[LoadResult], float]:
    """Each stage's first run that is not void, else its last, and how many seconds load was offered."""
    kept, offered = [], 0.0
    for number, stage in enumerate(stages):
        for _ in range(ATTEMPTS):
            result = send([stage], seed=number)
            offered += stage[2]
            if fell_behind(result.stages, p99_ms) is None:
                break
        kept.append(result)
    return kept, offered
