"""The trial of the ladder: what fails to be built is a finding, what is built is judged alike each time."""

import numpy as np
import pytest

from bentos.manifest import MODEL_FILE, sha256
from pipelines.core.quantize import BUILDERS
from pipelines.core.rows import to_tensors
from pipelines.core.spec import GateSpec
from pipelines.core.trial import Built, judge_rungs, try_rung
from tests.assets.world import rows, save_net
from tests.core.test_quantize import CONTRACT

HOLDOUT = rows(2)
TENSORS = to_tensors(CONTRACT, HOLDOUT, "holdout")
LABELS = HOLDOUT["y"].to_numpy()
SPEC = GateSpec(rungs=["fp32", "int8_static"], batch_sizes=[1, 8], min_rows=200)


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


def attempt(folders, rung: str) -> Built:
    source = save_net(folders[rung].parent / "source.onnx")
    return try_rung(rung, source, folders[rung], CONTRACT, TENSORS, TENSORS, threads=1)


def broken(source, target, calibration) -> None:
    raise KeyError("no quantizer for Gemm\nand a long story")


def garbage(source, target, calibration) -> None:
    target.write_bytes(b"half a model")


def test_a_rung_that_was_built_is_on_disk(folders):
    built = attempt(folders, "int8_static")
    model = folders["int8_static"] / MODEL_FILE
    assert built.built and (built.sha256, built.size_bytes) == (sha256(model), model.stat().st_size)
    assert Built.load(folders["int8_static"]) == built


@pytest.mark.parametrize(("builder", "says"), [(broken, "no quantizer"), (garbage, "(?i)protobuf")])
def test_a_broken_quantizer_is_a_finding_but_fp32_must_succeed(folders, monkeypatch, builder, says):
    for rung in SPEC.rungs:
        monkeypatch.setitem(BUILDERS, rung, builder)
    built = attempt(folders, "int8_static")
    assert not built.built and "\n" not in built.reason
    with pytest.raises(Exception, match=says) as raised:
        attempt(folders, "fp32")
    assert built.reason.startswith(type(raised.value).__name__)


def test_the_same_evidence_gives_the_same_ladder(folders):
    for rung in SPEC.rungs:
        attempt(folders, rung)
    ladders = [judge_rungs(folders, CONTRACT, TENSORS, LABELS, SPEC, 1, Clock()) for _ in range(2)]
    assert ladders[0] == ladders[1]
    fp32, static = ladders[0].rungs
    assert ladders[0].chosen == "fp32" and fp32.drop == 0 and fp32.flips == 0
    assert static.outcome == "fail" and "is not faster than fp32 (1.00x)" in static.why
    assert np.isclose(fp32.value, static.value, atol=0.01) and ladders[0].rows == len(LABELS)


def test_a_rung_without_a_file_stays_in_the_table(folders, monkeypatch):
    monkeypatch.setitem(BUILDERS, "int8_static", broken)
    for rung in SPEC.rungs:
        attempt(folders, rung)
    ladder = judge_rungs(folders, CONTRACT, TENSORS, LABELS, SPEC, 1, Clock())
    assert ladder.chosen == "fp32" and "no quantizer for Gemm" in ladder.rungs[1].why
    assert not ladder.rungs[1].built and "int8_static" in ladder.markdown()
