"""BentoML's batchable API with typed rows, at its defaults; access log, metrics and traces are off, as they
would only slow it down."""

import bentoml
import numpy as np
from net import Net, stacked
from pydantic import create_model

NET = Net()
NUMBERS = {np.float32: float, np.int64: int}
IS_LIST = {node.name: len(node.shape) > 1 for node in NET.session.get_inputs()}
KINDS = {
    name: list[NUMBERS[dtype]] if IS_LIST[name] else NUMBERS[dtype] for name, dtype in NET.inputs.items()
}
Row = create_model("Row", **{name: (kind, ...) for name, kind in KINDS.items()})


@bentoml.service(
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    tracing={"sample_rate": 0.0},
)
class Model:
    @bentoml.api(batchable=True)
    def predict(self, rows: list[Row]) -> list[float]:
        columns = {name: [getattr(row, name) for row in rows] for name in NET.inputs}
        feeds = {
            name: stacked(column, NET.inputs[name]) if IS_LIST[name] else np.array(column, NET.inputs[name])
            for name, column in columns.items()
        }
        return NET.session.run(None, feeds)[0].tolist()
