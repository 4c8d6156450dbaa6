"""The gate on real models and real builds: what it must refuse, what it must not, and what it says.

But for the one test that is about speed, every rung is said to be twice as fast as fp32, so that what is
refused is refused for its answers.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from bentos.contract import Contract, Field
from bentos.engines.engine import Engine
from pipelines.core.evaluate import Tensors, predict, row_count, take
from pipelines.core.export import export_onnx
from pipelines.core.findings import Holdout
from pipelines.core.gate import judge_against_production
from pipelines.core.ladder import Ladder
from pipelines.core.metrics import metric_of
from pipelines.core.quantize import calibration_reader, prepared
from pipelines.core.recipe import Recipe
from pipelines.core.rungs import fp32, int8_static
from pipelines.core.slices import slice_masks
from pipelines.core.spec import GateSpec
from pipelines.core.speed import Speed, Speeds
from pipelines.core.trial import judge_rungs, time_rungs, try_rung
from tests.core.nets import export
from tests.zoo import Specimen
from tests.zoo import load as load_specimen

BATCH_SIZES = [1, 8]
CALIBRATION_BATCH_ROWS = 32
SIZES = {"flights": (8000, 1024), "mlp": (8000, 1024), "digits": (797, 200), "minilm": (500, 64)}
"""Rows of the holdout and of calibration: the fewest that show what is to be shown."""
TOKENS = 24
WORST_CARRIER, LEAK = "EV", 0.5
"""What the candidate mixes up, and how much it has seen of the truth, in log-odds."""


@pytest.fixture(scope="module")
def specimens(zoo_folder, tmp_path_factory) -> Callable[[str], tuple[Specimen, Path]]:
    """Gives the specimen of a name, cut to its size, and its ONNX file."""

    @cache
    def exported(name: str) -> tuple[Specimen, Path]:
        specimen = load_specimen(name, zoo_folder)
        source = tmp_path_factory.mktemp(name) / "source.onnx"
        export_onnx(specimen.form, specimen.source, source, specimen.contract)
        return cut(specimen, *SIZES[name]), source

    return exported


def cut(specimen: Specimen, rows: int, calibration_rows: int) -> Specimen:
    """So many rows; of tweets, their beginnings."""
    holdout = {name: short(tensor[:rows]) for name, tensor in specimen.holdout.items()}
    calibration = {name: short(tensor[:calibration_rows]) for name, tensor in specimen.calibration.items()}
    return replace(specimen, holdout=holdout, calibration=calibration, labels=specimen.labels[:rows])


def short(tensor: np.ndarray) -> np.ndarray:
    """Only the tweets are rows of integers."""
    return tensor[:, :TOKENS] if tensor.dtype == np.int64 and tensor.ndim == 2 else tensor


def climb(specimen: Specimen, source: Path, folder: Path, *rungs: str, timed=False, **settings) -> Ladder:
    """The ladder of fp32 and these rungs under the gate's defaults, but for these settings."""
    spec = GateSpec(metric=specimen.metric, batch_sizes=BATCH_SIZES, **settings)
    load = partial(Engine, contract=specimen.contract)
    folders = {rung: folder / rung for rung in ("fp32", *rungs)}
    for rung, into in folders.items():
        into.mkdir()
        try_rung(rung, source, into, partial(batches, specimen), specimen.holdout, load, spec)
    rows, speeds = specimen.holdout, twice_as_fast(folders)
    if timed:
        speeds = time_rungs(folders, rows, load, BATCH_SIZES, time.perf_counter)
    return judge_rungs(folders, specimen.contract, rows, judged(specimen, {}), load, spec, speeds)


def batches(specimen: Specimen) -> Iterator[Tensors]:
    for start in range(0, row_count(specimen.calibration), CALIBRATION_BATCH_ROWS):
        yield take(specimen.calibration, slice(start, start + CALIBRATION_BATCH_ROWS))


def twice_as_fast(rungs: Mapping[str, Path]) -> Speeds:
    times = {rung: 1.0 if rung == "fp32" else 2.0 for rung in rungs}
    return {rung: dict.fromkeys(BATCH_SIZES, Speed(100 / x, x, x, x)) for rung, x in times.items()}


def judged(specimen: Specimen, masks: Mapping[str, np.ndarray]) -> Holdout:
    return Holdout(specimen.labels, masks, specimen.contract.outputs[0].name, metric_of(specimen.metric, 0.5))


def static(calibration: str, operators: list[str] | None = None, spared: int = 0) -> Callable:
    """A build by ONNX Runtime's static quantization, of these operators or of all that it knows; so many of
    the first Relus are spared."""

    def build(recipe: Recipe) -> Mapping[str, object]:
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

        with prepared(recipe.source, recipe.target) as exact:
            relus = [node.name for node in onnx.load(exact).graph.node if node.op_type == "Relu"]
            quantize_static(
                exact,
                recipe.target,
                calibration_reader(recipe.calibration()),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod[calibration],
                op_types_to_quantize=operators,
                nodes_to_exclude=relus[:spared],
            )
        return {}

    return build


@pytest.fixture(scope="module")
def minilm(specimens, tmp_path_factory) -> Ladder:
    """MiniLM in float32, with all its operators in static INT8, and with a scale for each row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8_static, "build", static("MinMax"))
        folder = tmp_path_factory.mktemp("ladder")
        return climb(*specimens("minilm"), folder, "int8_static", "int8_per_row")


def test_minilm_with_every_operator_in_static_int8_is_refused(minilm):
    report = minilm.rungs[1]
    assert report.built and report.outcome == "fail" and minilm.chosen != "int8_static"
    assert 1 - report.output_shifts["embedding"] == pytest.approx(0.3, abs=0.1)
    assert re.search(r"turns embedding by 1 - cosine 0\.[678]\d\d on average, more than 0\.02", report.why)
    assert re.search(r"loses 0\.\d+ auc, more than 0\.005 \(at least 0\.\d+\)", report.why)


def test_minilm_with_a_scale_for_each_row_passes_every_default_of_the_gate(minilm):
    report = minilm.rungs[2]
    assert (report.outcome, minilm.chosen) == ("pass", "int8_per_row"), report.why


def test_ranges_by_distribution_are_refused(specimens, tmp_path, monkeypatch):
    """ONNX Runtime leaves the work of a Relu to the quantizer behind it, whose range begins at zero. But the
    ranges of "Distribution" lie around zero, so the net is left linear."""
    monkeypatch.setattr(int8_static, "build", static("Distribution"))
    report = climb(*specimens("flights"), tmp_path, "int8_static").rungs[1]
    assert report.built and report.outcome == "fail"
    assert re.search(r"moves probability by 0\.[23]\d\d on average, more than 0\.02", report.why)


def test_a_ruined_calibration_is_refused_where_auc_hides_it(specimens, tmp_path, monkeypatch):
    """The flight net also loses .09 of its AUC. Where only the last hidden layer of a net has lost its Relu,
    the order of the rows hardly changes, and nearly all decisions stay."""
    monkeypatch.setattr(int8_static, "build", static("Distribution", ["MatMul", "Gemm", "Relu"], spared=2))
    report = climb(*specimens("mlp"), tmp_path, "int8_static", max_drop=0.02).rungs[1]
    assert report.drop_bound < 0.02 and "auc" not in report.why
    assert report.outcome == "fail"
    assert re.search(r"moves probability by 0\.[01]\d\d on average, more than 0\.02", report.why)
    assert re.search(
        r"its probabilities are off by 0\.[01]\d\d more than fp32's, more than 0\.01", report.why
    )


def test_an_answer_that_depends_on_batch_mates_is_refused(specimens, tmp_path):
    report = climb(*specimens("flights"), tmp_path, "int8_dynamic").rungs[1]
    assert report.outcome == "fail"
    assert re.fullmatch(r"a row's batch mates move its answer by 0\.\d+, more than 0\.001", report.why)


def test_a_rung_slower_than_fp32_is_refused(specimens, tmp_path):
    """Dynamic INT8 convolutions take several times as long, far beyond the noise of any machine."""
    ladder = climb(*specimens("digits"), tmp_path, "int8_dynamic", timed=True)
    assert (ladder.rungs[1].outcome, ladder.chosen) == ("fail", "fp32")
    assert re.search(r"is not faster than fp32 \(0\.\d\dx\)", ladder.rungs[1].why)


def test_a_rung_equal_to_fp32_is_not_refused(specimens, tmp_path, monkeypatch):
    monkeypatch.setattr(int8_static, "build", fp32.build)
    ladder = climb(*specimens("flights"), tmp_path, "int8_static")
    assert [report.outcome for report in ladder.rungs] == ["pass", "pass"]
    assert ladder.chosen == "int8_static" and ladder.rungs[0].sha256 == ladder.rungs[1].sha256


@pytest.mark.parametrize("ruined", [True, False], ids=["worse for one carrier", "better for all"])
def test_a_model_that_is_better_but_worse_on_a_slice_is_refused(specimens, ruined):
    specimen, source = specimens("flights")
    before = predict(Engine(source, specimen.contract), specimen.holdout, 1024)["probability"]
    masks = slice_masks(carriers(specimen), ["carrier"])
    after = 1 / (1 + np.exp(-np.log(before / (1 - before)) - LEAK * specimen.labels))
    if ruined:
        theirs = masks[f"carrier={WORST_CARRIER}"]
        after[theirs] = np.random.default_rng(0).permutation(before[theirs])
    (overall, _), (verdict, slices) = (
        judge_against_production(before, after, judged(specimen, of), GateSpec(), "candidate", "7")
        for of in ({}, masks)
    )
    assert overall.passed and verdict.numbers["drop"] < 0
    assert verdict.outcome == ("fail" if ruined else "pass"), verdict.why
    found = [slice_.slice for slice_ in slices if slice_.outcome == "fail"]
    assert found == ([f"carrier={WORST_CARRIER}"] if ruined else [])
    if ruined:
        says = rf"auc is 0\.\d+ worse on carrier={WORST_CARRIER} \(1,\d+ rows, adjusted p \S+\), surely more "
        assert re.fullmatch(says + r"than 0\.02 against version 7", verdict.why), verdict.why


def carriers(specimen: Specimen):
    """The carrier of each row by its name, as the holdout's file has it."""
    import pandas

    field = next(field for field in specimen.contract.inputs if field.name == "carrier")
    names = np.array(["unknown", *(field.categories or ())])
    return pandas.DataFrame({"carrier": names[specimen.holdout["carrier"]]})


@pytest.mark.parametrize(
    ("finite", "says"),
    [
        (False, r"ModelOutputInvalid: The model's output y is not finite\."),
        (True, r"moves y by 0\.\d+ on average, more than 0\.02"),
    ],
    ids=["NaN", "finite but wrong"],
)
def test_activations_beyond_float16_are_a_reason(tmp_path, finite, says):
    specimen = energies(tmp_path, finite)
    ladder = climb(specimen, specimen.source, tmp_path, "fp16")
    assert (ladder.rungs[1].outcome, ladder.chosen) == ("fail", "fp32")
    assert re.search(says, ladder.rungs[1].why), ladder.rungs[1].why


def energies(folder: Path, finite: bool) -> Specimen:
    """A net whose squared features are beyond float16. It divides them by their sum, infinity by infinity, or
    the features by the root of it, which gives 0.

    It transposes the squares because ONNX Runtime on a CPU computes float16 in float32, and rounds only what
    is moved about.
    """
    import torch

    class Energies(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = 1000 * self.linear(x)
            squares = features.reshape(-1, 2, 4).square().transpose(1, 2).reshape(-1, 8)
            total = squares.sum(1, keepdim=True)
            scaled = features / total.sqrt() if finite else squares / total
            return torch.sigmoid(10 * scaled[:, 0])

    torch.manual_seed(0)
    source = export(Energies(), np.zeros((3, 4), np.float32), folder / "source.onnx")
    contract = Contract((Field("x", "float32", (-1, 4)),), (Field("y", "float32"),))
    x = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    answers = Engine(source, contract).run({"x": x})["y"]
    labels = (answers > np.median(answers)).astype(np.int64)
    return Specimen("energies", "onnx", source, contract, {"x": x[:64]}, {"x": x}, labels, "auc", BATCH_SIZES)
