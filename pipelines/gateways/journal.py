"""What a rollout looked like from moment to moment, for people who watch it and for its report.

The ledger keeps what was decided; this keeps what was seen, a line a look, thinned to what changes a picture.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.core.home import Home
from pipelines.core.rollout.controller import Decision
from pipelines.core.rollout.observation import Arm, Observation
from pipelines.gateways.tables import replacing

LIVE = "live.json"
SHARE = 0.005
"""Of a step's length so far, that may pass between two lines: some hundred lines a step, however long."""


class Journal:
    """A folder a model below `home.serving`: live.json is the latest look, NUMBER.jsonl a rollout's."""

    def __init__(self, home: Home) -> None:
        self.folder = home.serving / "rollouts"
        self._kept: dict[str, tuple[float, object]] = {}

    def note(
        self,
        model: str,
        number: int,
        decision: Decision,
        look: Observation,
        troubles: Mapping[str, str],
        now: float,
    ) -> None:
        """Keep one look, what followed from it, and why metrics are not known, by name."""
        line = json.dumps({**_line(decision, look, now), "troubles": dict(troubles)})
        folder = self.folder / model
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / LIVE) as temp:
            temp.write_text(line)
        state = decision.state
        shape = number, state.step, state.phase, state.weight, [each["outcome"] for each in decision.findings]
        last, before = self._kept.get(model, (0.0, None))
        if shape != before or now - last >= max(1.0, SHARE * state.seconds):
            self._kept[model] = now, shape
            with self.path(model, number).open("a") as stream:
                stream.write(line + "\n")

    def path(self, model: str, number: int) -> Path:
        """Where the looks at a rollout are."""
        return self.folder / model / f"{number}.jsonl"

    def latest(self, model: str) -> dict[str, Any] | None:
        """The latest look; None where there was none yet."""
        path = self.folder / model / LIVE
        return json.loads(path.read_text()) if path.exists() else None


def _line(decision: Decision, look: Observation, now: float) -> Mapping[str, Any]:
    state = {name: value for name, value in decision.state.to_dict().items() if name != "history"}
    return {
        "at": now,
        "state": state,
        "seconds": look.seconds,
        "stable": _counts(look.stable),
        "canary": _counts(look.canary),
        "findings": decision.findings,
    }


def _counts(arm: Arm | None) -> dict[str, int] | None:
    return {"requests": arm.requests, "errors": arm.errors} if arm else None
