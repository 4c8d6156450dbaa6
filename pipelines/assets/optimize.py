"""From the registered version to the ONNX file that will be served: fetch, export, quantize, judge."""

import base64
import json
import time
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from bentos.contract import Contract
from bentos.manifest import MODEL_FILE, sha256
from pipelines.assets.common import Chapter, report_metadata, verdict_check
from pipelines.core.axes import with_axes
from pipelines.core.charts import ladder_chart
from pipelines.core.contracts import (
    CONTRACT_FILE,
    derive_contract,
    judged_output,
    refuse_default,
    refuse_key,
    save_contract,
)
from pipelines.core.exhibits import seal
from pipelines.core.expectations import validate_rows
from pipelines.core.home import Home
from pipelines.core.how import perform
from pipelines.core.ladder import Ladder
from pipelines.core.rows import digest_of, read_rows
from pipelines.core.rungs import load_rung
from pipelines.core.steps import LADDER_FILE, time_ladder
from pipelines.core.texts import TOKENIZER_FILE, with_text
from pipelines.core.verdict import judge
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.notebooks import Notebooks
from pipelines.gateways.registry import RegisteredModel, Registry
from pipelines.gateways.tables import replacing_folder

PARITY_ROWS = 256
FETCHED_FILE, SPEEDS_FILE = "fetched.json", "speeds.json"


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
            "The chosen rung is as accurate on the holdout as what serves now, on each slice too.",
        ),
        verdict_check(
            chapter, "release_model", "contract_compatible_with_production",
            "Whoever can talk to the version that serves now can talk to this one.",
        ),
        verdict_check(
            chapter, "release_model", "fairness_within_limits",
            "The gaps between groups of people are within the limits that defs.yaml sets, if it sets any.",
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
        code_version=digest_of(
            spec.data.digest(), json.dumps(spec.ranges), spec.gate.metric, spec.serving.text_field
        ),
    )
    def registered_model(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        registry: dg.ResourceParam[Registry],
    ) -> dg.MaterializeResult:
        """The version as it was registered, fetched once, with its contract.

        The contract is derived from the model's signature and graph, the categories it was trained on, the
        ranges in defs.yaml and the tokenizer, where one was registered with it. Great Expectations holds the
        reference, calibration and holdout rows against it. Nothing is unpickled: only torch.export archives
        and ONNX files are accepted.
        """
        version = context.partition_key
        with replacing_folder(chapter.of_version(home, "registered_model", version)) as folder:
            model = registry.fetch(spec.registered_name, version, folder)
            contract = _contract(chapter, model)
            save_contract(contract, folder)
            digests = [sha256(model.file)]
            if model.tokenizer:
                tokenizer = model.tokenizer.rename(folder / TOKENIZER_FILE)  # beside the contract
                digests.append(sha256(tokenizer))
            file = str(model.file.relative_to(folder))
            uri = f"models:/{spec.registered_name}/{version}"
            fetched = {"uri": uri, "model_id": model.model_id, "form": model.form, "file": file}
            (folder / FETCHED_FILE).write_text(json.dumps(fetched, indent=2))
            tables, data = _hold_against_data(chapter, home, contract, folder, digests[0])
            seal(folder, data)
        parts = (*digests, json.dumps(contract.to_dict()), *(digest for _, digest in data.values()))
        return dg.MaterializeResult(
            metadata={**fetched, "sha256": digests[0], "expectations": dg.MetadataValue.md(tables)},
            data_version=dg.DataVersion(digest_of(*parts)),
        )

    return registered_model


def _contract(chapter: Chapter, model: RegisteredModel) -> Contract:
    """Raises ContractBroken, ModelRefused, and SettingsInvalid where defs.yaml does not fit it."""
    spec = chapter.spec
    signed = derive_contract(spec.name, model.inputs, model.outputs, model.metadata, spec.ranges)
    measured = with_axes(signed, model.form, model.file)
    contract = with_text(spec.name, measured, model.tokenizer, spec.serving.text_field)
    refuse_key(contract, spec.data.key)
    judged_output(contract, spec.gate.output)
    refuse_default(contract, spec.serving.default_answer)
    return contract


def _hold_against_data(chapter, home, contract, folder, subject) -> tuple[str, dict[str, tuple[Path, str]]]:
    """Validate the three files; returns their results as Markdown, and their paths and digests."""
    data, binary = chapter.spec.data, chapter.spec.gate.metric == "auc"
    tables, digests, failures, rows = [], {}, [], 0
    for what in ("reference", "calibration", "holdout"):
        path = home.data(getattr(data, what))
        label = data.label if what == "holdout" else None
        frame = read_rows(path, what)
        validation = validate_rows(
            contract, frame, what, key=data.key, label=label, binary=binary, subject=subject
        )
        tables.append(f"#### {what}\n\n{validation.markdown}")
        digests[what] = (path, sha256(path))
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
        """The model as one self-contained ONNX file, with the contract's names and its dynamic dimensions.

        Exported straight from what was registered, without the model's source code, checked by ONNX's full
        check, and compared with the source model on held-out rows, at several lengths.
        """
        source = chapter.of_version(home, "registered_model", context.partition_key)
        fetched = json.loads((source / FETCHED_FILE).read_text())
        judged = _judged_rows(chapter, home, context.partition_key)
        inputs = {**judged, "registered": source / fetched["file"]}
        settings = {"form": fetched["form"], "parity": spec.gate.parity, "rows": PARITY_ROWS}
        with replacing_folder(chapter.of_version(home, "onnx_model", context.partition_key)) as folder:
            made = perform("export", inputs, settings, folder)
        return dg.MaterializeResult(metadata=made, data_version=dg.DataVersion(str(made["sha256"])))

    return onnx_model


def _rung(chapter: Chapter, rung: str) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key(rung),
        deps=[chapter.key("onnx_model")],
        partitions_def=chapter.versions,
        group_name=spec.name,
        kinds={"onnx"},
        code_version=digest_of(json.dumps(_judging(chapter))),
        description=load_rung(rung).says,
    )
    def rung_asset(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
        version = context.partition_key
        inputs = {
            **_judged_rows(chapter, home, version),
            "model": chapter.of_version(home, "onnx_model", version) / MODEL_FILE,
            "calibration": home.data(spec.data.calibration),
        }
        with replacing_folder(chapter.of_version(home, rung, version)) as folder:
            made = perform("build_rung", inputs, {"rung": rung, **_judging(chapter)}, folder)
        found = str(made["sha256"]) or digest_of(str(made["reason"]))
        return dg.MaterializeResult(metadata=made, data_version=dg.DataVersion(found))

    return rung_asset


def _judged_rows(chapter: Chapter, home: Home, version: str) -> dict[str, Path]:
    """The rows that everything is judged on, and what they mean."""
    source, holdout = chapter.of_version(home, "registered_model", version), chapter.spec.data.holdout
    tokenizer = source / TOKENIZER_FILE
    rows = {"contract": source / CONTRACT_FILE, "holdout": home.data(holdout)}
    return rows | ({"tokenizer": tokenizer} if tokenizer.exists() else {})


def _judging(chapter: Chapter) -> dict[str, object]:
    """What is judged by, and what a session is served with and so judged with."""
    gate, serving = chapter.spec.gate, chapter.spec.serving
    return {"gate": gate.model_dump(mode="json"), "device": serving.device, "threads": serving.threads or 1}


def _timed_sizes(chapter: Chapter) -> list[int]:
    """Those that the gate judges by, and the ends of what is served, as far as that is set."""
    most = chapter.spec.serving.max_batch_size
    return sorted({1, *chapter.spec.gate.batch_sizes, *([most] if most else [])})


def _release_model(chapter: Chapter) -> dg.AssetsDefinition:
    spec = chapter.spec

    @dg.asset(
        key=chapter.key("release_model"),
        deps=[chapter.key(rung) for rung in spec.gate.rungs],
        partitions_def=chapter.versions,
        group_name=spec.name,
        kinds={"onnx"},
        code_version=digest_of(json.dumps(_judging(chapter)), json.dumps(_timed_sizes(chapter))),
    )
    def release_model(
        context: dg.AssetExecutionContext,
        home: dg.ResourceParam[Home],
        ledger: dg.ResourceParam[Ledger],
        notebooks: dg.ResourceParam[Notebooks],
    ) -> dg.MaterializeResult:
        """The fastest rung that is right, with the table of all rungs and why the others lost.

        Each rung is loaded again from disk and judged on the holdout: paired non-inferiority to fp32, overall
        and on each slice, how far answers and calibration move, whether a row's answer depends on its batch,
        speed against fp32 in the same process. The winner is then compared with the version in production on
        the same rows. The report is written whether or not a rung passed.
        """
        version = context.partition_key
        folder = chapter.of_version(home, "release_model", version)
        inputs, serving = _judged_rows(chapter, home, version), ledger.production(spec.name)
        inputs |= {rung: chapter.of_version(home, rung, version) for rung in spec.gate.rungs}
        before = serving.version if serving and serving.version != version else None
        if before:
            inputs["production"] = chapter.of_version(home, "release_model", before)
        settings = {"label": spec.data.label, **_judging(chapter)}
        with replacing_folder(folder) as temp:
            inputs["speeds"] = temp / SPEEDS_FILE
            timed = {**settings, "batch_sizes": _timed_sizes(chapter)}
            time_ladder(inputs, timed, inputs["speeds"], time.perf_counter)
            made = perform("judge", inputs, {**settings, "production_version": before}, temp)
        parameters = {"release_dir": str(folder.parent), "model": spec.name, "version": version}
        report = notebooks.run("accuracy_review", parameters, folder.parent / "accuracy_report")
        return dg.MaterializeResult(
            metadata={
                "chosen": made["chosen"],
                **_ladder_metadata(Ladder.load(folder / LADDER_FILE)),
                **report_metadata(report),
            },
            data_version=dg.DataVersion(str(made["sha256"]) or digest_of("no rung")),
        )

    return release_model


def _ladder_metadata(ladder: Ladder) -> dict[str, dg.MetadataValue]:
    """The table of all rungs, and the picture of it."""
    picture = base64.b64encode(ladder_chart(ladder)).decode()
    return {
        "ladder": dg.MetadataValue.md(ladder.markdown()),
        "chart": dg.MetadataValue.md(f"![the ladder](data:image/png;base64,{picture})"),
    }
