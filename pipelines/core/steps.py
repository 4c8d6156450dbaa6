"""The steps that make an artifact from files: the same whether Dagster asks for them or a replay does.

Each takes named input files or folders, settings that JSON can hold, and the folder to write to.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bentos.contract import Contract
from bentos.engines.engine import PROVIDERS, Engine
from bentos.manifest import MODEL_FILE, sha256
from pipelines.core.compatibility import GATE as COMPATIBLE
from pipelines.core.compatibility import judge_compatibility
from pipelines.core.contracts import judged_output, load_contract, save_contract
from pipelines.core.evaluate import Tensors, predict
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
from pipelines.core.metrics import metric_of
from pipelines.core.parity import judge_parity, source_model
from pipelines.core.rows import read_rows, stream_tensors, to_array, to_tensors
from pipelines.core.slices import slice_masks
from pipelines.core.spec import GateSpec
from pipelines.core.speed import Clock, load_speeds, save_speeds
from pipelines.core.texts import Tokenizes, copy_tokenizer, tokenizer_of
from pipelines.core.trial import BATCH_ROWS, judge_rungs, load_outputs, time_rungs, try_rung
from pipelines.core.verdict import Verdict

if TYPE_CHECKING:
    from pandas import DataFrame

LADDER_FILE = "ladder.json"
SLICES_FILE, FAIRNESS_FILE = "production_slices.json", "fairness.json"
CALIBRATION_BATCH_ROWS = 256
NO_RUNG = "no rung passed, so there is nothing to judge"

Inputs = Mapping[str, Path]
Settings = Mapping[str, Any]


def export(inputs: Inputs, settings: Settings, folder: Path) -> dict[str, object]:
    """registered, contract, holdout → model.onnx and whether it answers like its source.

    Settings: form ("pt2" or "onnx"), parity (the tolerance), rows (how many of the holdout are compared).
    """
    contract, target = load_contract(inputs["contract"]), folder / MODEL_FILE
    export_onnx(settings["form"], inputs["registered"], target, contract)
    frame = read_rows(inputs["holdout"], "holdout").head(settings["rows"])
    rows, digest = to_tensors(contract, frame, "holdout", _tokenizer(inputs, contract)), sha256(target)
    source = source_model(settings["form"], inputs["registered"], contract)
    engine = Engine(target, contract)
    verdict = judge_parity(engine, source, rows, contract, settings["parity"], digest).save(folder)
    return {"sha256": digest, "size_bytes": target.stat().st_size, "parity": verdict.why}


def build_rung(inputs: Inputs, settings: Settings, folder: Path) -> dict[str, object]:
    """model, contract, calibration, holdout → the rung's model.onnx and its answers to the holdout.

    Settings: rung, gate (GateSpec), device, threads.
    """
    contract, spec = load_contract(inputs["contract"]), GateSpec(**settings["gate"])
    tokenizer = _tokenizer(inputs, contract)
    holdout = to_tensors(contract, read_rows(inputs["holdout"], "holdout"), "holdout", tokenizer)
    stream = partial(
        stream_tensors, contract, inputs["calibration"], "calibration", CALIBRATION_BATCH_ROWS,
        spec.calibration_rows, tokenizer,
    )  # fmt: skip
    load = _loading(contract, settings)
    built = try_rung(settings["rung"], inputs["model"], folder, stream, holdout, load, spec)
    return {"sha256": built.sha256, "size_bytes": built.size_bytes, "reason": built.reason or "built"}


def time_ladder(inputs: Inputs, settings: Settings, target: Path, clock: Clock) -> None:
    """contract, holdout and a folder for each rung → how fast the rungs are, in the file `target`.

    Settings: those of `judge`, and batch_sizes, in rows, which hold at least those that the gate judges by.
    No step of its own, for nobody can repeat a measurement; what is judged by it can be repeated.
    """
    given = _Given.of(inputs, settings)
    sizes = settings["batch_sizes"]
    save_speeds(time_rungs(given.rungs(inputs), given.tensors, given.load, sizes, clock), target)


def judge(inputs: Inputs, settings: Settings, folder: Path) -> dict[str, object]:
    """contract, holdout, speeds (of `time_ladder`), a folder for each rung and, where one serves, production
    → the chosen model.onnx, the ladder and the verdicts.

    Settings: gate, label, device, threads, production_version (None where none serves).
    """
    given, timed = _Given.of(inputs, settings), load_speeds(inputs["speeds"])
    speeds = {rung: {rows: of[rows] for rows in given.spec.batch_sizes} for rung, of in timed.items()}
    rungs, holdout = given.rungs(inputs), given.holdout
    ladder = judge_rungs(rungs, given.contract, given.tensors, holdout, given.load, given.spec, speeds)
    ladder.save(folder / LADDER_FILE)
    save_contract(given.contract, folder)
    copy_tokenizer(given.contract, inputs["contract"].parent, folder)
    judge_ladder(ladder).save(folder)
    if ladder.chosen is None:
        for gate in (COMPATIBLE, AGAINST_PRODUCTION, FAIRNESS):
            Verdict(gate, "inconclusive", "no rung", (NO_RUNG,)).save(folder)
        return {"chosen": "none", "sha256": ""}
    shutil.copyfile(rungs[ladder.chosen] / MODEL_FILE, folder / MODEL_FILE)
    scores, subject = load_outputs(rungs[ladder.chosen])[holdout.output], ladder.winner.sha256
    _judge_against_production(given, inputs, scores, subject, folder)
    _judge_groups(given, scores, subject, folder)
    return {"chosen": ladder.chosen, "sha256": subject}


@dataclass(frozen=True)
class _Given:
    """What every judgement is given: the holdout as a frame and as tensors, and the settings."""

    contract: Contract
    spec: GateSpec
    frame: "DataFrame"
    tensors: Tensors
    settings: Settings

    @classmethod
    def of(cls, inputs: Inputs, settings: Settings) -> "_Given":
        contract, frame = load_contract(inputs["contract"]), read_rows(inputs["holdout"], "holdout")
        tensors = to_tensors(contract, frame, "holdout", _tokenizer(inputs, contract))
        return cls(contract, GateSpec(**settings["gate"]), frame, tensors, settings)

    def rungs(self, inputs: Inputs) -> dict[str, Path]:
        return {rung: inputs[rung] for rung in self.spec.rungs}

    @cached_property
    def holdout(self) -> Holdout:
        labels = to_array(self.frame[self.settings["label"]], "holdout")
        metric = metric_of(self.spec.metric, self.spec.threshold)
        masks = slice_masks(self.frame, self.spec.slices)
        return Holdout(labels, masks, judged_output(self.contract, self.spec.output), metric)

    def load(self, model: Path) -> Engine:
        """A session as it will serve."""
        return _loading(self.contract, self.settings)(model)


def _judge_against_production(
    given: _Given, inputs: Inputs, scores: np.ndarray, subject: str, folder: Path
) -> None:
    """The winner and its contract against what serves now, on the same rows."""
    version, spec, before, theirs = given.settings["production_version"], given.spec, None, None
    if version:
        theirs = load_contract(inputs["production"])
        engine = _loading(theirs, given.settings)(inputs["production"] / MODEL_FILE)
        tokenizer = tokenizer_of(theirs, inputs["production"])
        answers = predict(engine, to_tensors(theirs, given.frame, "holdout", tokenizer), BATCH_ROWS)
        before = answers.get(spec.output or "", answers[theirs.outputs[0].name])
    permitted = spec.allow_breaking_contract
    judge_compatibility(given.contract, theirs, permitted, subject, version).save(folder)
    verdict, slices = judge_against_production(before, scores, given.holdout, spec, subject, version)
    verdict.save(folder)
    _save_all(slices, folder / SLICES_FILE)


def _judge_groups(given: _Given, scores: np.ndarray, subject: str, folder: Path) -> None:
    """How the winner treats groups of people, where limits are set."""
    spec, gaps = given.spec, ()
    if spec.fairness:
        labels, limits = given.holdout.labels, (spec.threshold, spec.confidence, spec.min_slice_rows)
        gaps = judge_fairness(given.frame, labels, scores, spec.fairness, *limits)
    judge_groups(gaps, subject).save(folder)
    _save_all(gaps, folder / FAIRNESS_FILE)


def _save_all(entries: Iterable, path: Path) -> None:
    path.write_text(json.dumps([asdict(entry) for entry in entries], indent=2) + "\n")


def _tokenizer(inputs: Inputs, contract: Contract) -> Tokenizes | None:
    """It lies beside the contract; among the inputs it is only so that its digest is kept."""
    return tokenizer_of(contract, inputs["contract"].parent)


def _loading(contract: Contract, settings: Settings) -> Callable[[Path], Engine]:
    """Opens sessions as the service will."""
    return lambda model: Engine(model, contract, settings["threads"], PROVIDERS[settings["device"]])


STEPS: Mapping[str, Callable[[Inputs, Settings, Path], Mapping[str, object]]] = {
    "export": export,
    "build_rung": build_rung,
    "judge": judge,
}
