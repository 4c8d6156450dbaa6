"""The ladder on four real models that differ in kind: is what it chooses what is fastest of what is right?

Each model takes the ladder's own way: export, every rung, the gate, the choice. Then all rungs are timed
anew, turn about, with fresh sessions, and the choice is held against that. Figures go to results.json beside
this file. Seconds depend on the machine; ratios measured in one run are what is claimed.
"""

import json
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from bentos.engines.engine import Engine
from bentos.manifest import MODEL_FILE
from pipelines.core.evaluate import take
from pipelines.core.export import export_onnx
from pipelines.core.findings import Holdout
from pipelines.core.ladder import TIE, Ladder
from pipelines.core.metrics import metric_of
from pipelines.core.spec import GateSpec
from pipelines.core.speed import compare_speed, overall
from pipelines.core.trial import judge_rungs, time_rungs, try_rung
from tests.zoo import NAMES, Specimen
from tests.zoo import load as load_specimen

RESULTS = Path(__file__).with_name("results.json")
RUNGS = ["fp32", "int8_dynamic", "int8_per_row", "int8_static"]
CALIBRATION_BATCH_ROWS = 64


@pytest.fixture(scope="module")
def results():
    found: dict[str, dict] = {}
    yield found
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    isa = sorted(flag for flag in flags.split() if flag.startswith(("avx512_vnni", "avx_vnni", "amx")))
    machine = {"cores": psutil.cpu_count(), "isa": isa, "load_1_min": round(os.getloadavg()[0], 2)}
    RESULTS.write_text(json.dumps({"machine": machine, "models": found}, indent=2) + "\n")


def climb(specimen: Specimen, folder: Path, spec: GateSpec) -> tuple[Ladder, dict[str, Engine]]:
    """The specimen's ladder, and a fresh session on each rung that was built."""
    load = partial(Engine, contract=specimen.contract, threads=1)
    source = folder / "source.onnx"
    export_onnx(specimen.form, specimen.source, source, specimen.contract)
    folders = {rung: folder / rung for rung in spec.rungs}
    for rung, into in folders.items():
        into.mkdir()
        built = try_rung(rung, source, into, partial(_batches, specimen), specimen.holdout, load, spec)
        assert built.built or rung != "fp32"
    holdout = Holdout(
        specimen.labels, {}, specimen.contract.outputs[0].name, metric_of(spec.metric, spec.threshold)
    )
    speeds = time_rungs(folders, specimen.holdout, load, spec.batch_sizes, time.perf_counter)
    ladder = judge_rungs(folders, specimen.contract, specimen.holdout, holdout, load, spec, speeds)
    fresh = {report.rung: load(folders[report.rung] / MODEL_FILE) for report in ladder.rungs if report.built}
    return ladder, fresh


def _batches(specimen: Specimen):
    rows = len(next(iter(specimen.calibration.values())))
    for start in range(0, rows, CALIBRATION_BATCH_ROWS):
        yield take(specimen.calibration, slice(start, start + CALIBRATION_BATCH_ROWS))


@pytest.mark.parametrize("name", NAMES)
def test_the_choice_is_the_fastest_that_is_right(name, zoo_folder, tmp_path, results):
    specimen = load_specimen(name, zoo_folder)
    spec = GateSpec(rungs=RUNGS, metric=specimen.metric, batch_sizes=specimen.batch_sizes, min_rows=200)
    ladder, engines = climb(specimen, tmp_path, spec)
    timed = compare_speed(engines, specimen.holdout, specimen.batch_sizes, time.perf_counter)
    speed = {rung: overall(found) for rung, found in timed.items()}
    fastest = max(speed[report.rung] for report in ladder.rungs if report.outcome == "pass")
    results[name] = {
        "rows": ladder.rows,
        "metric": specimen.metric,
        "chosen": ladder.chosen,
        "chosen_to_fastest_passing": round(speed[ladder.winner.rung] / fastest, 3),
        "chosen_to_fp32": round(speed[ladder.winner.rung], 3),
        "rungs": {report.rung: _told(report, timed) for report in ladder.rungs},
    }
    assert speed[ladder.winner.rung] * TIE >= fastest
    assert speed[ladder.winner.rung] * TIE >= 1
    if name == "minilm":
        assert speed[ladder.winner.rung] >= 2


def _told(report, timed) -> dict:
    names = ("value", "drop_bound", "mean_shift", "flip_rate", "calibration_rise", "batch_shift")
    figures = {name: getattr(report, name) for name in names}
    speeds = timed.get(report.rung, {})
    return {
        "outcome": report.outcome,
        "why": report.why,
        "size_bytes": report.size_bytes,
        **{name: None if figure is None else float(np.round(figure, 5)) for name, figure in figures.items()},
        "times_as_fast": {str(rows): round(speed.speedup, 2) for rows, speed in speeds.items()},
    }
