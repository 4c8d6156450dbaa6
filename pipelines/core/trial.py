"""The trial of the ladder: each rung is built, loaded again from disk as it will be served, and judged."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bentos.contract import Contract
from bentos.engine import Engine
from bentos.manifest import MODEL_FILE, sha256
from pipelines.core.evaluate import Tensors, batch_shift, predict
from pipelines.core.gate import report_rung
from pipelines.core.ladder import Ladder, RungReport, choose
from pipelines.core.quantize import BUILDERS
from pipelines.core.spec import GateSpec
from pipelines.core.speed import Clock, compare_speed

RUNG_FILE = "rung.json"
SCORES_FILE = "holdout.npy"
BATCH_ROWS = 1024


@dataclass(frozen=True)
class Built:
    """A rung on disk, or the reason why there is none."""

    rung: str
    built: bool
    reason: str = ""
    sha256: str = ""
    size_bytes: int = 0

    @classmethod
    def load(cls, folder: Path) -> "Built":
        return cls(**json.loads((folder / RUNG_FILE).read_text()))


def try_rung(
    rung: str,
    source: Path,
    folder: Path,
    contract: Contract,
    calibration: Tensors,
    holdout: Tensors,
    threads: int,
) -> Built:
    """Build the rung into `folder`, load it again and score the holdout with it.

    A rung that can't be built, loaded or trusted to answer is a finding, not an error; fp32 must succeed.
    """
    target = folder / MODEL_FILE
    try:
        BUILDERS[rung](source, target, calibration)
        scores = predict(Engine(target, contract, threads), holdout, BATCH_ROWS)
        np.save(folder / SCORES_FILE, scores[contract.outputs[0].name])
        built = Built(rung, True, "", sha256(target), target.stat().st_size)
    except Exception as error:  # quantizers raise anything, and fp32 must still be able to win
        if rung == "fp32":
            raise
        built = Built(rung, False, f"{type(error).__name__}: {error}".splitlines()[0])
    (folder / RUNG_FILE).write_text(json.dumps(asdict(built), indent=2) + "\n")
    return built


def judge_rungs(
    folders: Mapping[str, Path],
    contract: Contract,
    holdout: Tensors,
    labels: np.ndarray,
    spec: GateSpec,
    threads: int,
    clock: Clock,
) -> Ladder:
    """Judge every rung on the same rows, timed turn about in this process, and choose one."""
    found = {rung: Built.load(folder) for rung, folder in folders.items()}
    engines = {
        rung: Engine(folders[rung] / MODEL_FILE, contract, threads)
        for rung, built in found.items()
        if built.built
    }
    speeds = compare_speed(engines, holdout, spec.batch_sizes, clock)
    scores = {rung: np.load(folders[rung] / SCORES_FILE) for rung in engines}
    output = contract.outputs[0].name
    reports = [
        report_rung(
            rung, built.sha256, built.size_bytes, labels, scores["fp32"], scores[rung],
            batch_shift(engines[rung], holdout, output), speeds[rung], spec,
        )
        if built.built
        else RungReport(rung, False, built.reason)
        for rung, built in found.items()
    ]  # fmt: skip
    return choose(reports, spec, len(labels))
