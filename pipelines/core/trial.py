"""The trial of the ladder: each rung is built, loaded again from disk as it will be served, and judged."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from bentos.contract import Contract
from bentos.engines.engine import Engine
from bentos.manifest import MODEL_FILE, sha256
from pipelines.core.contracts import judged_output
from pipelines.core.evaluate import Tensors, predict, shift
from pipelines.core.findings import Holdout
from pipelines.core.gate import Trial, judge_rung
from pipelines.core.invariance import batch_invariance
from pipelines.core.ladder import Ladder, RungReport, choose
from pipelines.core.metrics import metric_of
from pipelines.core.recipe import Recipe
from pipelines.core.rows import longest
from pipelines.core.rungs import load_rung
from pipelines.core.spec import GateSpec
from pipelines.core.speed import Clock, Speeds, compare_speed

RUNG_FILE = "rung.json"
SCORES_FILE = "holdout.npz"
BATCH_ROWS = 1024

Load = Callable[[Path], Engine]
"""Opens a session on a model file with the settings it will be served with."""


@dataclass(frozen=True)
class Built:
    """A rung on disk, or the reason why there is none."""

    rung: str
    built: bool
    reason: str = ""
    sha256: str = ""
    size_bytes: int = 0
    notes: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "Built":
        return cls(**json.loads((folder / RUNG_FILE).read_text()))


def try_rung(
    rung: str,
    source: Path,
    folder: Path,
    calibration: Callable[[], Iterator[Tensors]],
    holdout: Tensors,
    load: Load,
    spec: GateSpec,
) -> Built:
    """Build the rung into `folder`, load it again and score the holdout with it.

    A rung that can't be built, loaded or trusted to answer is a finding, not an error; fp32 must succeed.
    """
    target = folder / MODEL_FILE
    recipe = Recipe(source, target, calibration, _objection(source, calibration, load, spec))
    try:
        notes = load_rung(rung).build(recipe)
        _save_outputs(predict(load(target), holdout, BATCH_ROWS), folder)
        built = Built(rung, True, "", sha256(target), target.stat().st_size, notes)
    except Exception as error:  # quantizers raise anything, and fp32 must still be able to win
        if rung == "fp32":
            raise
        target.unlink(missing_ok=True)
        built = Built(rung, False, f"{type(error).__name__}: {error}".splitlines()[0])
    (folder / RUNG_FILE).write_text(json.dumps(asdict(built), indent=2) + "\n")
    return built


def _objection(
    source: Path, calibration: Callable[[], Iterator[Tensors]], load: Load, spec: GateSpec
) -> Callable[[Path], str | None]:
    """Judges a file on the calibration rows: those that ranges were set by anyway, never the holdout."""
    kind = metric_of(spec.metric, spec.threshold).kind

    def answers(path: Path) -> np.ndarray:
        engine = load(path)
        name = judged_output(engine.contract, spec.output)
        return np.concatenate([engine.run(dict(batch))[name] for batch in calibration()])

    before = cache(lambda: answers(source))

    def objection(path: Path) -> str | None:
        moved = shift(before(), answers(path), kind, spec.threshold).mean
        if moved <= spec.max_mean_shift:
            return None
        return f"moves answers to the calibration rows by {moved:.3f}, more than {spec.max_mean_shift:g}"

    return objection


def time_rungs(
    folders: Mapping[str, Path], rows: Tensors, load: Load, batch_sizes: list[int], clock: Clock
) -> Speeds:
    """Time every rung that was built turn about, in this process, as it will be served."""
    engines = {
        rung: load(folder / MODEL_FILE) for rung, folder in folders.items() if Built.load(folder).built
    }
    return compare_speed(engines, rows, batch_sizes, clock, longest(engines["fp32"].contract, rows))


def judge_rungs(
    folders: Mapping[str, Path],
    contract: Contract,
    rows: Tensors,
    holdout: Holdout,
    load: Load,
    spec: GateSpec,
    speeds: Speeds,
) -> Ladder:
    """Load every rung that was built again, judge each and choose; `rows` are the holdout's tensors."""
    found = {rung: Built.load(folder) for rung, folder in folders.items()}
    engines = {rung: load(folders[rung] / MODEL_FILE) for rung, built in found.items() if built.built}
    outputs = {rung: load_outputs(folders[rung]) for rung in engines}
    reports = []
    for rung, built in found.items():
        if not built.built:
            reports.append(RungReport(rung, False, built.reason))
            continue
        invariance = batch_invariance(
            engines[rung], rows, contract, holdout.output, holdout.metric.kind, spec.threshold
        )
        placement = engines[rung].placement()
        trial = Trial(
            rung, built.sha256, built.size_bytes, built.notes,
            outputs[rung], invariance, placement, speeds[rung],
        )  # fmt: skip
        reports.append(judge_rung(trial, outputs["fp32"], holdout, spec))
    return choose(reports, spec, len(holdout.labels))


def _save_outputs(outputs: Tensors, folder: Path) -> None:
    """As `np.savez` does, which takes no output called `file`, for it has a parameter of that name."""
    with ZipFile(folder / SCORES_FILE, "w") as archive:
        for name, values in outputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def load_outputs(folder: Path) -> dict[str, np.ndarray]:
    """What the rung answered to the holdout, one array an output."""
    with np.load(folder / SCORES_FILE) as arrays:
        return dict(arrays)
