"""The trial of the ladder: what fails to be built is a finding, what is built is judged alike each time."""

from functools import partial

import numpy as np
import pytest

from bentos.engines.engine import Engine
from bentos.manifest import MODEL_FILE, sha256
from pipelines.core.contracts import derive_contract
from pipelines.core.evaluate import take
from pipelines.core.findings import Holdout
from pipelines.core.metrics import metric_of
from pipelines.core.rows import to_tensors
from pipelines.core.rungs import fp32, int8_static
from pipelines.core.spec import GateSpec
from pipelines.core.trial import Built, judge_rungs, load_outputs, time_rungs, try_rung
from tests.assets.world import INPUTS, METADATA, OUTPUTS, rows, save_net

CONTRACT = derive_contract("tiny", INPUTS, OUTPUTS, METADATA, {})
FRAME = rows(2)
TENSORS = to_tensors(CONTRACT, FRAME, "holdout")
HOLDOUT = Holdout(FRAME["y"].to_numpy(), {}, "probability", metric_of("auc", 0.5))
SPEC = GateSpec(rungs=["fp32", "int8_static"], batch_sizes=[1, 8], min_rows=200)
LOAD = partial(Engine, contract=CONTRACT)


class Clock:
    """Each look at it is a millisecond later."""

    looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.looks / 1000


@pytest.fixture
def folders(tmp_path):
    made = {rung: tmp_path / rung for rung in SPEC.rungs}
    for folder in made.values():
        folder.mkdir()
    return made


def batches():
    for start in range(0, 600, 100):
        yield take(TENSORS, slice(start, start + 100))


def attempt(folders, rung: str) -> Built:
    source = save_net(folders[rung].parent / "source.onnx")
    return try_rung(rung, source, folders[rung], batches, TENSORS, LOAD, SPEC)


def judge(folders):
    speeds = time_rungs(folders, TENSORS, LOAD, SPEC.batch_sizes, Clock())
    return judge_rungs(folders, CONTRACT, TENSORS, HOLDOUT, LOAD, SPEC, speeds)


def broken(recipe):
    raise KeyError("no quantizer for Gemm\nand a long story")


def garbage(recipe):
    recipe.target.write_bytes(b"half a model")
    return {}


def test_a_rung_that_was_built_is_on_disk_with_its_answers(folders):
    built = attempt(folders, "int8_static")
    model = folders["int8_static"] / MODEL_FILE
    assert built.built and (built.sha256, built.size_bytes) == (sha256(model), model.stat().st_size)
    assert Built.load(folders["int8_static"]) == built
    answers = LOAD(model).run(TENSORS)["probability"]
    np.testing.assert_allclose(load_outputs(folders["int8_static"])["probability"], answers, atol=1e-6)


@pytest.mark.parametrize(("builder", "says"), [(broken, "no quantizer"), (garbage, "(?i)protobuf")])
def test_a_broken_builder_is_a_finding_but_fp32_must_succeed(folders, monkeypatch, builder, says):
    for module in (fp32, int8_static):
        monkeypatch.setattr(module, "build", builder)
    built = attempt(folders, "int8_static")
    assert not built.built and "\n" not in built.reason
    assert not (folders["int8_static"] / MODEL_FILE).exists()
    with pytest.raises(Exception, match=says) as raised:
        attempt(folders, "fp32")
    assert built.reason.startswith(type(raised.value).__name__)


def test_an_answer_that_is_not_finite_is_a_finding(folders, monkeypatch):
    def overflowing(recipe):
        save_net(recipe.target, (0.5, float("nan"), -1.0))
        return {}

    monkeypatch.setattr(int8_static, "build", overflowing)
    built = attempt(folders, "int8_static")
    assert not built.built and "probability is not finite" in built.reason


def test_a_builder_is_told_what_moves_answers_too_far(folders, monkeypatch):
    heard = []

    def asking(recipe):
        save_net(recipe.target, (-0.5, -1.5, 1.0))
        heard.append(recipe.objection(recipe.target))
        save_net(recipe.target)
        heard.append(recipe.objection(recipe.target))
        return {}

    monkeypatch.setattr(int8_static, "build", asking)
    attempt(folders, "int8_static")
    assert heard[0].startswith("moves answers to the calibration rows by 0.") and heard[1] is None


def test_the_same_evidence_gives_the_same_ladder(folders):
    for rung in SPEC.rungs:
        attempt(folders, rung)
    ladders = [judge(folders) for _ in range(2)]
    assert ladders[0] == ladders[1]
    exact, static = ladders[0].rungs
    assert ladders[0].chosen == "fp32" and exact.drop == 0 and exact.flips == 0
    assert static.outcome == "fail" and "is not faster than fp32 (1.00x)" in static.why
    assert np.isclose(exact.value, static.value, atol=0.01) and ladders[0].rows == len(FRAME)
    assert sum(exact.placement.values()) > 0 and set(exact.placement) == {"CPUExecutionProvider"}


def test_a_rung_without_a_file_stays_in_the_table(folders, monkeypatch):
    monkeypatch.setattr(int8_static, "build", broken)
    for rung in SPEC.rungs:
        attempt(folders, rung)
    ladder = judge(folders)
    assert ladder.chosen == "fp32" and "no quantizer for Gemm" in ladder.rungs[1].why
    assert not ladder.rungs[1].built and "int8_static" in ladder.markdown()
