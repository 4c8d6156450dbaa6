"""From the registered version to the ONNX file that will be served: fetch, export, quantize, judge."""

import json
import shutil
import time
from collections.abc import Sequence

import dagster as dg
import numpy as np

from bentos.engine import Engine
from bentos.manifest import MODEL_FILE, sha256
from pipelines.assets.common import Chapter, load_contract, save_contract, verdict_check
from pipelines.core.contracts import derive_contract
from pipelines.core.evaluate import predict, take
from pipelines.core.expectations import validate_rows
from pipelines.core.export import export_onnx, judge_parity, source_predictions
from pipelines.core.gate import judge_against_production, judge_ladder
from pipelines.core.home import Home
from pipelines.core.ladder import Ladder
from pipelines.core.rows import digest_of, read_rows, to_tensors
from pipelines.core.trial import BATCH_ROWS, SCORES_FILE, judge_rungs, try_rung
from pipelines.core.verdict import Verdict, judge
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.registry import Registry
from pipelines.gateways.tables import replacing_folder

PARITY_ROWS = 2000
FETCHED_FILE = "fetched.json"
LADDER_FILE = "ladder.json"


def optimize(chapter: Chapter) -> Sequence:
    """The chapter's assets and checks."""
    spec = chapter.spec
    return [
        _registered_model(chapter),
        verdict_check(
            chapter, "registered_model", "contract_holds",
            "Reference, calibration and holdout rows have the columns, types, categories and ranges of the "
            "model's contract (Great Expectations).",
        ),
        _onnx_model(chapter),
        verdict_check(
            chapter, "onnx_model", "parity",
            "The ONNX file answers like the registered model, at several batch lengths.",
        ),
        *(_rung(chapter, rung) for rung in spec.gate.rungs),
        _release_model(chapter),
        verdict_check(
            chapter, "release_model", "accuracy_non_inferior_to_fp32",
            "The chosen rung is as accurate as fp32 on the holdout, by a paired one-sided bound.",
        ),
        verdict_check(
            chapter, "release_model", "accuracy_non_inferior_to_production",
            "The chosen rung is as accurate on the holdout as the version that serves now.",
        ),
    ]  # fmt: skip


def _registered_model(chapter: Chapter) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("registered_model"),
        deps=[dg.AssetKey.from_user_string(key) for key in (spec.trained_by, spec.data.asset) if key],
        partitions_def=chapter.versions,
        group_name=spec.name,
        kinds={"mlflow"},
        code_version=digest_of(spec.data.digest(), json.dumps(spec.ranges)),
    )
    def registered_model(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        registry: dg.ResourceParam[Registry],
    ) -> dg.MaterializeResult:
        """The version as it was registered, fetched once, with its contract.

        The contract is derived from the model's signature, the categories it was trained on and the ranges in
        defs.yaml. Great Expectations holds the reference, calibration and holdout rows against it. Nothing is
        unpickled: only torch.export archives and ONNX files are accepted.
        """
        version = context.partition_key
        with replacing_folder(chapter.of_version(home, "registered_model", version)) as folder:
            model = registry.fetch(spec.registered_name, version, folder)
            contract = derive_contract(spec.name, model.inputs, model.outputs, model.metadata, spec.ranges)
            save_contract(contract, folder)
            fetched = {"model_id": model.model_id, "form": model.form, "file": model.file.name}
            (folder / FETCHED_FILE).write_text(json.dumps(fetched, indent=2))
            digest = sha256(model.file)
            tables, data_digests = _hold_against_data(chapter, home, contract, folder, digest)
        return dg.MaterializeResult(
            metadata={**fetched, "sha256": digest, "expectations": dg.MetadataValue.md(tables)},
            data_version=dg.DataVersion(digest_of(digest, json.dumps(contract.to_dict()), *data_digests)),
        )

    return registered_model


def _hold_against_data(chapter, home, contract, folder, subject) -> tuple[str, list[str]]:
    """Validate the three files; returns their results as Markdown and their digests."""
    data = chapter.spec.data
    tables, digests, failures, rows = [], [], [], 0
    for what in ("reference", "calibration", "holdout"):
        path = home.data(getattr(data, what))
        label = data.label if what == "holdout" else None
        frame = read_rows(path, what)
        validation = validate_rows(contract, frame, what, key=data.key, label=label, subject=subject)
        tables.append(f"#### {what}\n\n{validation.markdown}")
        digests.append(sha256(path))
        failures += [] if validation.verdict.passed else validation.verdict.reasons
        rows += len(frame)
    judge("contract_holds", subject, failures, f"holds for all {rows:,} rows", rows=rows).save(folder)
    return "\n\n".join(tables), digests


def _onnx_model(chapter: Chapter) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("onnx_model"),
        deps=[chapter.key("registered_model")],
        partitions_def=chapter.versions,
        group_name=spec.name,
        kinds={"onnx", "pytorch"},
        code_version=str(spec.gate.parity),
    )
    def onnx_model(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
        """The model as one self-contained ONNX file, with the contract's names and a dynamic batch.

        Exported straight from what was registered, without the model's source code, checked by ONNX's full
        check, and compared with the source model on held-out rows.
        """
        source = chapter.of_version(home, "registered_model", context.partition_key)
        fetched, contract = json.loads((source / FETCHED_FILE).read_text()), load_contract(source)
        registered = source / fetched["file"]
        rows = _tensors(chapter, home, contract, "holdout", PARITY_ROWS)
        with replacing_folder(chapter.of_version(home, "onnx_model", context.partition_key)) as folder:
            target = folder / MODEL_FILE
            export_onnx(fetched["form"], registered, target, contract)
            expected = source_predictions(fetched["form"], registered, contract, rows)
            engine, digest = Engine(target, contract), sha256(target)
            verdict = judge_parity(engine, expected, rows, spec.gate.parity, digest).save(folder)
            size = target.stat().st_size
        return dg.MaterializeResult(
            metadata={"sha256": digest, "size_bytes": size, "parity": verdict.why},
            data_version=dg.DataVersion(digest),
        )

    return onnx_model


def _tensors(chapter: Chapter, home: Home, contract, what: str, rows: int | None = None):
    """The reference, calibration or holdout rows as tensors; the first `rows` of them, or all."""
    frame = read_rows(home.data(getattr(chapter.spec.data, what)), what)
    return take(to_tensors(contract, frame, what), slice(0, rows))


def _rung(chapter: Chapter, rung: str) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key(rung),
        deps=[chapter.key("onnx_model")],
        partitions_def=chapter.versions,
        group_name=spec.name,
        kinds={"onnx"},
        code_version=str(spec.serving.threads),
        description=RUNGS[rung],
    )
    def rung_asset(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
        version = context.partition_key
        source = chapter.of_version(home, "onnx_model", version) / MODEL_FILE
        contract = load_contract(chapter.of_version(home, "registered_model", version))
        calibration, holdout = (
            _tensors(chapter, home, contract, what) for what in ("calibration", "holdout")
        )
        with replacing_folder(chapter.of_version(home, rung, version)) as folder:
            built = try_rung(rung, source, folder, contract, calibration, holdout, spec.serving.threads)
        return dg.MaterializeResult(
            metadata={
                "sha256": built.sha256,
                "size_bytes": built.size_bytes,
                "reason": built.reason or "built",
            },
            data_version=dg.DataVersion(built.sha256 or digest_of(built.reason)),
        )

    return rung_asset


RUNGS = {
    "fp32": "The exported file as it is: the rung that every other is compared with. It must be built.",
    "int8_dynamic": "INT8 weights. Activations are scaled by each batch, so a row's mates move its answer.",
    "int8_static": "INT8 weights, UINT8 activations. Their scales are set once, from the calibration rows.",
}
"""The catalogue entries of the rungs."""


def _release_model(chapter: Chapter) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("release_model"),
        deps=[chapter.key(rung) for rung in spec.gate.rungs],
        partitions_def=chapter.versions,
        group_name=spec.name,
        kinds={"onnx"},
        code_version=digest_of(spec.gate.digest(), str(spec.serving.threads)),
    )
    def release_model(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        ledger: dg.ResourceParam[Ledger],
    ) -> dg.MaterializeResult:
        """The fastest rung that is right, with the table of all rungs and why the others lost.

        Each rung is loaded again from disk and judged on the holdout: paired non-inferiority to fp32, how far
        answers move, whether a row's answer depends on its batch, speed against fp32 in the same process.
        The winner is then compared with the version in production on the same rows.
        """
        version = context.partition_key
        contract = load_contract(chapter.of_version(home, "registered_model", version))
        frame = read_rows(home.data(spec.data.holdout), "holdout")
        holdout, labels = to_tensors(contract, frame, "holdout"), frame[spec.data.label].to_numpy()
        rungs = {rung: chapter.of_version(home, rung, version) for rung in spec.gate.rungs}
        ladder = judge_rungs(
            rungs, contract, holdout, labels, spec.gate, spec.serving.threads, time.perf_counter
        )
        with replacing_folder(chapter.of_version(home, "release_model", version)) as folder:
            ladder.save(folder / LADDER_FILE)
            save_contract(contract, folder)
            judge_ladder(ladder).save(folder)
            if ladder.chosen:
                shutil.copyfile(rungs[ladder.chosen] / MODEL_FILE, folder / MODEL_FILE)
                scores = np.load(rungs[ladder.chosen] / SCORES_FILE)
                _against_production(chapter, version, frame, scores, ladder, home, ledger).save(folder)
        return dg.MaterializeResult(
            metadata={"chosen": ladder.chosen or "none", "ladder": dg.MetadataValue.md(ladder.markdown())},
            data_version=dg.DataVersion(ladder.winner.sha256 if ladder.chosen else digest_of("no rung")),
        )

    return release_model


def _against_production(
    chapter: Chapter, version: str, frame, scores: np.ndarray, ladder: Ladder, home: Home, ledger: Ledger
) -> Verdict:
    """The winner against the release that serves now, on the same rows; it may be the first, or the same."""
    spec, entry = chapter.spec, ledger.production(chapter.spec.name)
    before = None
    if entry is not None and entry.version != version:
        folder = chapter.of_version(home, "release_model", entry.version)
        contract = load_contract(folder)
        engine = Engine(folder / MODEL_FILE, contract, spec.serving.threads)
        rows = to_tensors(contract, frame, "holdout")
        before = predict(engine, rows, BATCH_ROWS)[contract.outputs[0].name]
    labels, subject = frame[spec.data.label].to_numpy(), ladder.winner.sha256
    return judge_against_production(
        labels, before, scores, spec.gate, subject, entry.version if entry else None
    )
