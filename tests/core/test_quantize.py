"""Each rung is a file that loads and answers about like fp32."""

import numpy as np
import pytest

from bentos.engine import Engine
from pipelines.core.contracts import derive_contract
from pipelines.core.quantize import BUILDERS
from tests.assets.world import INPUTS, METADATA, OUTPUTS, save_net

CONTRACT = derive_contract("tiny", INPUTS, OUTPUTS, METADATA, {})


def feeds(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    age, delay = rng.normal(size=(2, rows)).astype(np.float32)
    return {"carrier": rng.integers(1, 4, rows), "age": age, "delay": delay}


@pytest.mark.parametrize(("rung", "inserted"), [
    ("fp32", None), ("int8_dynamic", "MatMulInteger"), ("int8_static", "QuantizeLinear"),
])  # fmt: skip
def test_a_rung_loads_and_answers(tmp_path, rung, inserted):
    import onnx

    source, target = save_net(tmp_path / "source.onnx"), tmp_path / "rung" / "model.onnx"
    target.parent.mkdir()
    BUILDERS[rung](source, target, feeds(600))
    operators = {node.op_type for node in onnx.load(target).graph.node}
    assert inserted is None or inserted in operators
    expected, found = (Engine(path, CONTRACT).run(feeds(64))["probability"] for path in (source, target))
    assert np.abs(found - expected).mean() < 0.02
    assert list(target.parent.iterdir()) == [target]


def test_every_batch_of_the_calibration_is_used(tmp_path):
    rows = feeds(600)
    wide = {**rows, "age": np.where(np.arange(600) == 599, 100, rows["age"]).astype(np.float32)}
    answers = []
    for calibration in (rows, wide):
        target = tmp_path / f"{len(answers)}.onnx"
        BUILDERS["int8_static"](save_net(tmp_path / "source.onnx"), target, calibration)
        answers.append(Engine(target, CONTRACT).run(feeds(64))["probability"])
    assert np.abs(answers[0] - answers[1]).mean() > 0.01
