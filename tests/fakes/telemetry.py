"""Counts that a test makes up."""

from collections.abc import Mapping, Sequence

from pipelines.core.rollout.observation import Arm
from pipelines.core.rollout.watch import Watch
from pipelines.gateways.telemetry import Telemetry

Pair = tuple[Arm | None, Arm | None]


class FakeTelemetry(Telemetry):
    """`scripts` has the arms of each model, stable and canary, one pair a look; the last stays. Nothing is
    known of other models. `watched` are the looks so far, `said` the troubles by model."""

    def __init__(self, scripts: Mapping[str, Sequence[Pair]]) -> None:
        self.scripts = {model: list(pairs) for model, pairs in scripts.items()}
        self.watched: list[Watch] = []
        self.said: dict[str, dict[str, str]] = {}

    def look(self, watch: Watch, now: float) -> Pair:
        self.watched.append(watch)
        pairs = self.scripts.get(watch.model) or [(None, None)]
        return pairs.pop(0) if len(pairs) > 1 else pairs[0]

    def troubles(self, model: str) -> dict[str, str]:
        return self.said.get(model, {})

    def forget(self, model: str) -> None:
        self.said.pop(model, None)
