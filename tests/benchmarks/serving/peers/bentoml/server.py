"""BentoML's batchable API with typed rows; access log, metrics and traces off."""

import bentoml
from net import BATCH_ROWS, LATENCY_MS, Net
from pydantic import BaseModel


class Row(BaseModel):
    """Of a vector, or of a text."""

    x: list[float] | None = None
    input_ids: list[int] | None = None
    attention_mask: list[int] | None = None


@bentoml.service(
    workers=1,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    tracing={"sample_rate": 0.0},
)
class Model:
    def __init__(self) -> None:
        self.net = Net()

    @bentoml.api(batchable=True, max_batch_size=BATCH_ROWS, max_latency_ms=int(LATENCY_MS))
    def predict(self, rows: list[Row]) -> list[float]:
        return self.net.run([vars(row) for row in rows])
