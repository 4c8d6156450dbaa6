"""The notebooks are as they should be in git, and run on data like the assets write them."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from bentos.contract import Contract, Field
from pipelines.core.compatibility import GATE as COMPATIBLE
from pipelines.core.compatibility import judge_compatibility
from pipelines.core.drift import measure_drift
from pipelines.core.fairness import judge_fairness
from pipelines.core.gate import (
    AGAINST_PRODUCTION,
    FAIRNESS,
    Holdout,
    Trial,
    judge_against_production,
    judge_groups,
    judge_ladder,
    judge_rung,
)
from pipelines.core.invariance import Invariance
from pipelines.core.ladder import Ladder, RungReport, choose
from pipelines.core.metrics import metric_of
from pipelines.core.performance import measure_performance
from pipelines.core.slices import slice_masks
from pipelines.core.spec import FairnessSpec, GateSpec, MonitoringSpec
from pipelines.core.speed import Speed
from pipelines.core.verdict import Outcome, Verdict
from pipelines.gateways.notebooks import Papermill
from tests.core import loads

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
PARAMETERS = {
    "accuracy_review": {"release_dir", "model", "version"},
    "load_review": {"load_dir", "model", "version"},
    "release_review": {"release_dir", "model", "version"},
    "rollout_review": {"rollout_dir"},
    "dossier": {"dossier_file", "check_file"},
    "drift_review": {"drift_dir", "model", "month", "performance_file"},
}
CONTRACT = Contract(
    inputs=(
        Field("carrier", "int64", categories=("AA", "B6", "DL", "UA"), open=True),
        Field("dest", "int64", categories=tuple("ABCDEFGHIJKLMNOP")),
        *(Field(name, "float32") for name in ("distance", "temp", "wind_speed", "departure_hour")),
    ),
    outputs=(Field("probability", "float32"),),
)


def cells(name: str, kind: str) -> list:
    return [cell for cell in nbformat.read(FOLDER / f"{name}.ipynb", 4).cells if cell.cell_type == kind]


def test_every_notebook_is_known_here():
    assert set(NAMES) == set(PARAMETERS)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stripped_and_metadata_is_minimal(name: str):
    assert all(not cell.outputs and cell.execution_count is None for cell in cells(name, "code"))
    assert set(nbformat.read(FOLDER / f"{name}.ipynb", 4).metadata) <= {"kernelspec", "language_info"}


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_with_a_title_and_a_question_and_documents_its_parameters(name: str):
    assert re.match(r"# .+\n\n\*\*.+\?\*\*", cells(name, "markdown")[0].source)
    tagged = [cell for cell in cells(name, "code") if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    lines = tagged[0].source.splitlines()
    assert all(re.fullmatch(r"\w+ = \S+  # .+", line) for line in lines)
    assert {line.split(" ")[0] for line in lines} == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_define_nothing(name: str):
    for cell in cells(name, "code"):
        assert not re.search(r"^\s*(def|class|async) ", cell.source, re.MULTILINE)
        assert len(cell.source.splitlines()) <= 60


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_a_machine_is_in_it(name: str):
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert not re.search(r"[\"' ](/(home|root|work|tmp|Users|usr|opt)/|[A-Z]:\\\\)", text)


def rung(
    name: str, outcome: Outcome, speed: float, value: float, why: str, chosen: bool = False
) -> RungReport:
    sizes = ("1", "8", "64")
    return RungReport(
        name,
        True,
        why,
        outcome,
        chosen,
        size_bytes=int(98_000 / speed),
        value=value,
        low=value - 0.012,
        high=value + 0.012,
        drop=0.741 - value,
        drop_bound=0.742 - value,
        mean_shift=0.004,
        max_shift=0.031,
        flips=17,
        batch_shift=0.0,
        overall_speedup=speed,
        latency_us={size: (11 + int(size)) / speed for size in sizes},
        speedup={size: {"median": speed, "low": speed * 0.93, "high": speed * 1.1} for size in sizes},
    )


def write_ladder(folder: Path) -> None:
    rungs = (
        rung("fp32", "pass", 1.0, 0.741, "passed, but int8_static is faster (2.10x against 1.00x)"),
        rung(
            "int8_dynamic", "fail", 1.8, 0.739, "answers depend on batch mates: |Δp| 0.013 of 0.001 allowed"
        ),
        rung("int8_static", "pass", 2.1, 0.74, "the fastest that passed everything", chosen=True),
        RungReport("fp16", False, "it does not load"),
    )
    (folder / "release_model").mkdir(parents=True)
    Ladder("auc", 20_000, [1, 8, 64], "int8_static", rungs).save(folder / "release_model" / "ladder.json")


def write_thin_ladder(folder: Path) -> None:
    rungs = tuple(RungReport(name, True, "only 40 rows", "inconclusive") for name in ("fp32", "int8_static"))
    (folder / "release_model").mkdir(parents=True)
    Ladder("auc", 40, [1, 8, 64], None, rungs).save(folder / "release_model" / "ladder.json")


def write_verdicts(folder: Path, load_test: Outcome) -> None:
    found: list[tuple[str, str, Outcome, str]] = [
        ("registered_model", "expectations", "pass", "all 27 expectations hold for 20,000 holdout rows"),
        ("onnx_model", "parity", "pass", "largest difference to the source model 3e-7 of 0.0001 allowed"),
        ("int8_dynamic", "batch_invariant", "fail", "answers depend on batch mates: |Δp| 0.013 of 0.001"),
        ("release_model", "not_worse_than_production", "pass", "AUC .740 against .738 in production"),
        ("bento", "smoke", "pass", "the built bento answers like the ONNX file"),
        ("load_test", "slo", load_test, "p99 of 21 ms at 100 requests/s, 100 ms allowed; no errors"),
    ]
    for asset, gate, outcome, why in found:
        (folder / asset).mkdir(exist_ok=True)
        Verdict(gate, outcome, "abc", (why,)).save(folder / asset)


def write_load(folder: Path) -> None:
    load, samples = loads.make_load()
    loads.write_load(folder / "load_test", load, samples)


SPEC = GateSpec(
    rungs=["fp32", "fp16", "int8_dynamic", "int8_static"],
    slices=["carrier", "distance"],
    min_slice_rows=700,
    fairness=FairnessSpec(columns=["carrier"], max_gap=0.1),
)


def write_accuracy(folder: Path, spec: GateSpec = SPEC, rows: int = 6000) -> Ladder:
    """A release as `release_model` leaves it: static INT8 wins, and is worse than production on DL."""
    frame, random = flights(rows, 0), np.random.default_rng(3)
    fp32 = {"probability": frame["probability"].to_numpy(), "hidden": random.normal(size=(rows, 8))}
    labels = (random.random(rows) < fp32["probability"]).astype(int)
    holdout = Holdout(
        labels, slice_masks(frame, spec.slices), "probability", metric_of(spec.metric, spec.threshold)
    )
    noise = {"fp32": 0.0, "int8_dynamic": 0.03, "int8_static": 0.004}
    reports = []
    for place, (name, size) in enumerate(noise.items()):
        moved = fp32["probability"] + size * random.normal(size=rows)
        outputs = {**fp32, "probability": moved.clip(1e-4, 1 - 1e-4)}
        (folder / name).mkdir(parents=True)
        np.savez(folder / name / "holdout.npz", **outputs)
        speeds = {n: Speed(20 / (place + 1), place + 1, place + 0.9, place + 1.2) for n in spec.batch_sizes}
        invariance = Invariance(size / 4, size / 2, 9) if name == "int8_dynamic" else Invariance(0, 1e-7, 0)
        trial = Trial(
            name, "ab" * 32, 98_000, {"quantized_nodes": 3 * place}, outputs, invariance,
            {"CPUExecutionProvider": 12}, speeds,
        )  # fmt: skip
        reports.append(judge_rung(trial, fp32, holdout, spec))
    ladder = choose(
        [*reports, RungReport("fp16", False, "RuntimeError: <no> kernel for fp16 & CPU")], spec, rows
    )
    write_judgement(folder, ladder, frame, holdout, spec)
    return ladder


def write_judgement(
    folder: Path, ladder: Ladder, frame: pd.DataFrame, holdout: Holdout, spec: GateSpec
) -> None:
    release, onnx = folder / "release_model", folder / "onnx_model"
    for place in (release, onnx):
        place.mkdir()
    ladder.save(release / "ladder.json")
    judge_ladder(ladder).save(release)
    (release / "how.json").write_text(json.dumps({"settings": {"gate": spec.model_dump(mode="json")}}))
    differences = {"probability": 3e-7, "hidden": None}
    Verdict("parity", "fail", "abc", ("hidden is NaN on one side",), differences).save(onnx)
    if ladder.chosen is None:
        for gate in (AGAINST_PRODUCTION, COMPATIBLE, FAIRNESS):
            Verdict(gate, "inconclusive", "no rung", ("no rung passed",)).save(release)
        return
    scores = np.load(folder / ladder.chosen / "holdout.npz")["probability"]
    before = scores.copy()
    better = (frame["carrier"] == "DL").to_numpy()
    before[better] = 0.8 * before[better] + 0.2 * holdout.labels[better]
    verdict, slices = judge_against_production(before, scores, holdout, spec, "abc", "2")
    verdict.save(release)
    wider = replace(CONTRACT, inputs=(replace(CONTRACT.inputs[0], open=False), *CONTRACT.inputs[1:]))
    judge_compatibility(CONTRACT, wider, False, "abc", "2").save(release)
    assert spec.fairness
    gaps = judge_fairness(frame, holdout.labels, scores, spec.fairness, 0.3, 0.95, spec.min_slice_rows)
    judge_groups(gaps, "abc").save(release)
    for name, found in (("production_slices", slices), ("fairness", gaps)):
        (release / f"{name}.json").write_text(json.dumps([asdict(entry) for entry in found]))


def flights(rows: int, seed: int, moved: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    fields = {field.name: field for field in CONTRACT.inputs}
    logits = random.normal(-1.2 + moved / 4, 0.9, rows)
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "carrier": random.choice(
                fields["carrier"].categories, rows, p=[0.4 - moved / 5, 0.3, 0.2, 0.1 + moved / 5]
            ),
            "dest": random.choice(fields["dest"].categories, rows),
            "distance": random.gamma(3, 350, rows),
            "temp": random.normal(38 + 18 * moved, 11, rows),
            "wind_speed": random.gamma(4, 2.8 - moved / 2, rows),
            "departure_hour": random.integers(5, 24, rows).astype("float64"),
            "probability": 1 / (1 + np.exp(-logits)),
        }
    )


def write_drift(folder: Path, rows: int = 6000) -> None:
    folder.mkdir(exist_ok=True)
    reference, current = flights(8000, 0), flights(rows, 1, moved=1.0)
    reference.to_parquet(folder / "reference.parquet")
    current.to_parquet(folder / "current.parquet")
    page = folder / "drift.html"
    report = measure_drift(
        reference, current, CONTRACT, MonitoringSpec(), page, subject="abc", month="2013-07"
    )
    report.save(folder / "drift.json")


def write_performance(path: Path) -> None:
    scores = flights(6000, 1, moved=1.0)
    labels = scores[["id"]].assign(late=np.random.default_rng(2).random(6000) < scores["probability"] ** 1.4)
    measure_performance(
        scores,
        labels.astype({"late": int}).head(5600),
        key="id",
        label="late",
        output="probability",
        metric=metric_of("auc", 0.5),
        holdout_value=0.741,
        spec=MonitoringSpec(),
        subject="abc",
        month="2013-07",
    ).save(path)


def page(name: str, parameters: dict, into: Path) -> str:
    report = Papermill(FOLDER).run(name, parameters, into)
    html = report.html.read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", html)
    assert not re.search(r"<(script|link|iframe)[^>]*(src|href)\s*=\s*[\"']?[^\"'>\s]", html)
    executed = nbformat.read(report.notebook, 4)
    assert not [o for c in executed.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    return html


@pytest.mark.e2e
def test_the_release_review_tells_the_decision_and_why_the_others_lost(tmp_path: Path):
    write_ladder(tmp_path)
    write_verdicts(tmp_path, "pass")
    write_load(tmp_path)
    parameters = {"release_dir": tmp_path, "model": "flight_delay", "version": "3"}
    html = page("release_review", parameters, tmp_path / "report")
    assert "flight_delay version 3 may serve, as int8_static." in html
    assert "8 of 8 gates that decide passed" in html
    assert "answers depend on batch mates" in html
    assert html.count("<img") == 2


@pytest.mark.e2e
def test_the_release_review_of_a_stopped_release_without_a_load_test_says_so(tmp_path: Path):
    write_ladder(tmp_path)
    write_verdicts(tmp_path, "fail")
    parameters = {"release_dir": tmp_path, "model": "flight_delay", "version": 3}
    html = page("release_review", parameters, tmp_path / "report")
    assert "flight_delay version 3 must not serve." in html
    assert "There is no load test in this release yet." in html
    assert html.count("<img") == 1


@pytest.mark.e2e
def test_the_release_review_of_a_version_that_could_not_be_measured_says_why(tmp_path: Path):
    write_thin_ladder(tmp_path)
    parameters = {"release_dir": tmp_path, "model": "flight_delay", "version": "3"}
    html = page("release_review", parameters, tmp_path / "report")
    assert "flight_delay version 3 must not serve." in html and "only 40 rows" in html


@pytest.mark.e2e
def test_the_accuracy_review_answers_its_question_with_the_figures_that_decided(tmp_path: Path):
    ladder = write_accuracy(tmp_path)
    parameters = {"release_dir": tmp_path, "model": "flight_delay", "version": "3"}
    html = page("accuracy_review", parameters, tmp_path / "report")
    assert "No: flight_delay version 3 as int8_static must not be served." in html
    assert "batch mates move its answer by 0.015, more than 0.001" in html
    assert "RuntimeError: &lt;no&gt; kernel for fp16 &amp; CPU" in html
    assert f"{ladder.winner.value:.4f} ({ladder.winner.low:.4f}–{ladder.winner.high:.4f})" in html
    assert "is 0.2486 worse on carrier=DL" in html and "input carrier: other strings are accepted now" in html
    assert "hidden is NaN on one side" in html
    assert html.count("<img") == 4


@pytest.mark.e2e
def test_the_accuracy_review_says_when_all_is_right_and_what_was_not_asked(tmp_path: Path):
    write_accuracy(tmp_path, SPEC.model_copy(update={"slices": []}))
    for gate, asset in ((AGAINST_PRODUCTION, "release"), (COMPATIBLE, "release"), ("parity", "onnx")):
        Verdict(gate, "pass", "abc", ("all is well",)).save(tmp_path / f"{asset}_model")
    for name in ("production_slices.json", "fairness.json", "how.json"):
        (tmp_path / "release_model" / name).unlink()
    judge_groups((), "abc").save(tmp_path / "release_model")
    parameters = {"release_dir": tmp_path, "model": "flight_delay", "version": "3"}
    html = page("accuracy_review", parameters, tmp_path / "report")
    assert "Yes: flight_delay version 3 is right as int8_static" in html
    assert "No slices were judged" in html and "No limits between groups are set" in html
    assert html.count("<img") == 2


@pytest.mark.e2e
def test_the_accuracy_review_of_a_ladder_without_a_winner_shows_what_refused_each(tmp_path: Path):
    ladder = write_accuracy(tmp_path, SPEC.model_copy(update={"max_batch_shift": 1e-9}))
    parameters = {"release_dir": tmp_path, "model": "flight_delay", "version": "3"}
    html = page("accuracy_review", parameters, tmp_path / "report")
    assert ladder.chosen is None and "No: no rung of flight_delay version 3 may be served." in html
    assert html.count("batch mates move its answer by 1e-07, more than 1e-09") >= 2
    assert "no rung passed" in html and html.count("<img") == 3


@pytest.mark.e2e
def test_the_accuracy_review_of_a_version_that_could_not_be_judged_says_why(tmp_path: Path):
    write_thin_ladder(tmp_path)
    parameters = {"release_dir": tmp_path, "model": "flight_delay", "version": 3}
    html = page("accuracy_review", parameters, tmp_path / "report")
    assert "No: no rung of flight_delay version 3 may be served." in html and "only 40 rows" in html
    assert "it was not judged" in html


@pytest.mark.e2e
def test_the_drift_review_tells_the_verdict_and_shows_what_moved(tmp_path: Path):
    write_drift(tmp_path)
    write_performance(tmp_path / "performance.json")
    parameters = {"drift_dir": tmp_path, "model": "flight_delay", "month": "2013-07"}
    html = page(
        "drift_review", parameters | {"performance_file": tmp_path / "performance.json"}, tmp_path / "report"
    )
    assert "flight_delay, 2013-07" in html and "drifts" in html
    assert "input temp (wasserstein distance" in html
    assert "the holdout" in html and html.count("<img") == 3


@pytest.mark.e2e
def test_the_drift_review_of_a_thin_month_without_labels_says_so(tmp_path: Path):
    write_drift(tmp_path, rows=40)
    html = page(
        "drift_review",
        {"drift_dir": tmp_path, "model": "flight_delay", "month": "2013-07"},
        tmp_path / "report",
    )
    assert "too little" in html and "Its labels have not arrived yet" in html
