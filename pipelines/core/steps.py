"""The steps that make an artifact from files: the same whether Dagster asks for them or a replay does.

Each takes named input files or folders, settings that JSON can hold, and the folder to write to.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bentos.contract import Contract
from bentos.engine import PROVIDERS, Engine
from bentos.manifest import MODEL_FILE, sha256
from pipelines.core.compatibility import GATE as COMPATIBLE
from pipelines.core.compatibility import judge_compatibility
from pipelines.core.contracts import load_contract, save_contract
from pipelines.core.evaluate import predict
from pipelines.core.export import export_onnx
from pipelines.core.fairness import judge_fairness
from pipelines.core.findings import Holdout
from pipelines.core.gate import (
    AGAINST_PRODUCTION,
    FAIRNESS,
    judge_against_production,
    judge_groups,
    judge_ladder,
)
from pipelines.core.ladder import Ladder
from pipelines.core.metrics import metric_of
from pipelines.core.parity import judge_parity, source_model
from pipelines.core.rows import read_rows, stream_tensors, to_tensors
from pipelines.core.slices import slice_masks
from pipelines.core.spec import GateSpec
from pipelines.core.speed import Clock, load_speeds, save_speeds
from pipelines.core.trial import BATCH_ROWS, judge_rungs, load_outputs, time_rungs, try_rung
from pipelines.core.verdict import Verdict

if TYPE_CHECKING:
    from pandas import DataFrame

LADDER_FILE = "ladder.json"
SLICES_FILE, FAIRNESS_FILE = "production_slices.json", "fairness.json"
CALIBRATION_BATCH_ROWS = 256

Inputs = Mapping[str, Path]
Settings = Mapping[str, Any]


def export(inputs: Inputs, settings: Settings, folder: Path) -> dict[str, object]:
    """registered, contract, holdout → model.onnx and whether it answers like its source.

    Settings: form ("pt2" or "onnx"), parity (the tolerance), rows (how many of the holdout are compared).
    """
    contract, target = load_contract(inputs["contract"]), folder / MODEL_FILE
    export_onnx(settings["form"], inputs["registered"], target, contract)
    frame = read_rows(inputs["holdout"], "holdout").head(settings["rows"])
    rows, digest = to_tensors(contract, frame, "holdout"), sha256(target)
    source = source_model(settings["form"], inputs["registered"], contract)
    engine = Engine(target, contract)
    verdict = judge_parity(engine, source, rows, contract, settings["parity"], digest).save(folder)
    return {"sha256": digest, "size_bytes": target.stat().st_size, "parity": verdict.why}


def build_rung(inputs: Inputs, settings: Settings, folder: Path) -> dict[str, object]:
    """model, contract, calibration, holdout → the rung's model.onnx and its answers to the holdout.

    Settings: rung, gate (GateSpec), device, threads.
    """
    contract, spec = load_contract(inputs["contract"]), GateSpec(**settings["gate"])
    holdout = to_tensors(contract, read_rows(inputs["holdout"], "holdout"), "holdout")
    stream = partial(
        stream_tensors, contract, inputs["calibration"], "calibration", CALIBRATION_BATCH_ROWS,
        spec.calibration_rows,
    )  # fmt: skip
    load = _loading(contract, settings)
    built = try_rung(settings["rung"], inputs["model"], folder, stream, holdout, load, spec)
    return {"sha256": built.sha256, "size_bytes": built.size_bytes, "reason": built.reason or "built"}


def time_ladder(inputs: Inputs, settings: Settings, target: Path, clock: Clock) -> None:
    """contract, holdout and a folder for each rung → how fast the rungs are, in the file `target`.

    No step of its own, for nobody can repeat a measurement; what is judged by it can be repeated.
    """
    contract, spec = load_contract(inputs["contract"]), GateSpec(**settings["gate"])
    rows = to_tensors(contract, read_rows(inputs["holdout"], "holdout"), "holdout")
    rungs = {rung: inputs[rung] for rung in spec.rungs}
    save_speeds(time_rungs(rungs, rows, _loading(contract, settings), spec.batch_sizes, clock), target)


def judge(inputs: Inputs, settings: Settings, folder: Path) -> dict[str, object]:
    """contract, holdout, speeds (of `time_ladder`), a folder for each rung and, where one serves, production
    → the chosen model.onnx, the ladder and the verdicts.

    Settings: gate, label, device, threads, production_version (None where none serves).
    """
    contract, spec = load_contract(inputs["contract"]), GateSpec(**settings["gate"])
    frame = read_rows(inputs["holdout"], "holdout")
    rows, holdout = to_tensors(contract, frame, "holdout"), _holdout(frame, contract, settings["label"], spec)
    rungs = {rung: inputs[rung] for rung in spec.rungs}
    load = _loading(contract, settings)
    speeds = load_speeds(inputs["speeds"])
    ladder = judge_rungs(rungs, contract, rows, holdout, load, spec, speeds)
    ladder.save(folder / LADDER_FILE)
    save_contract(contract, folder)
    judge_ladder(ladder).save(folder)
    if ladder.chosen:
        shutil.copyfile(rungs[ladder.chosen] / MODEL_FILE, folder / MODEL_FILE)
        scores = load_outputs(rungs[ladder.chosen])[holdout.output]
        _judge_version(inputs, settings, folder, frame, scores, holdout, spec, ladder)
    else:
        for gate in (COMPATIBLE, AGAINST_PRODUCTION, FAIRNESS):
            Verdict(gate, "inconclusive", "no rung", ("no rung passed, so there is nothing to judge",)).save(
                folder
            )
    return {"chosen": ladder.chosen or "none", "sha256": ladder.winner.sha256 if ladder.chosen else ""}


def _judge_version(
    inputs: Inputs,
    settings: Settings,
    folder: Path,
    frame: "DataFrame",
    scores: np.ndarray,
    holdout: Holdout,
    spec: GateSpec,
    ladder: Ladder,
) -> None:
    """The winner against what serves now, on the same rows; and its treatment of groups."""
    version, subject = settings["production_version"], ladder.winner.sha256
    theirs = load_contract(inputs["production"]) if version else None
    judge_compatibility(load_contract(folder), theirs, spec.allow_breaking_contract, subject, version).save(
        folder
    )
    before = _answers(inputs["production"], theirs, frame, settings, spec) if theirs else None
    verdict, slices = judge_against_production(before, scores, holdout, spec, subject, version)
    verdict.save(folder)
    gaps = (
        judge_fairness(
            frame, holdout.labels, scores, spec.fairness, spec.threshold, spec.confidence, spec.min_slice_rows
        )
        if spec.fairness
        else ()
    )
    judge_groups(gaps, subject).save(folder)
    for file, found in ((SLICES_FILE, slices), (FAIRNESS_FILE, gaps)):
        (folder / file).write_text(json.dumps([asdict(entry) for entry in found], indent=2) + "\n")


def _answers(
    production: Path, contract: Contract, frame: "DataFrame", settings: Settings, spec: GateSpec
) -> np.ndarray:
    """What the release in production says of the holdout."""
    engine = _loading(contract, settings)(production / MODEL_FILE)
    answers = predict(engine, to_tensors(contract, frame, "holdout"), BATCH_ROWS)
    return answers.get(spec.output or "", answers[contract.outputs[0].name])


def _holdout(frame: "DataFrame", contract: Contract, label: str, spec: GateSpec) -> Holdout:
    labels = frame[label].to_numpy()
    if labels.dtype == object:  # vectors, as Parquet keeps them
        labels = np.stack(list(labels))
    output = spec.output or contract.outputs[0].name
    metric = metric_of(spec.metric, spec.threshold)
    return Holdout(labels, slice_masks(frame, spec.slices), output, metric)


def _loading(contract: Contract, settings: Settings) -> Callable[[Path], Engine]:
    """Opens sessions as the service will."""
    providers = PROVIDERS[settings["device"]]
    return lambda model: Engine(model, contract, settings["threads"], providers)


STEPS: Mapping[str, Callable[[Inputs, Settings, Path], Mapping[str, object]]] = {
    "export": export,
    "build_rung": build_rung,
    "judge": judge,
}
