"""The process beside the router that leads rollouts: look, decide, act, twice a second.

It needs neither Dagster nor a person, and nothing that it can't find again: how a rollout stands is in the
ledger, what was counted is in the logs. Killed at any point, it goes on where it was.

    python -m pipelines.controller
"""

import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from pipelines.core.errors import LedgerMoved, SeatrialError, ServiceFailed
from pipelines.core.rollout.answers import Answers
from pipelines.core.rollout.controller import State, advance
from pipelines.core.rollout.observation import Arm, Observation
from pipelines.core.rollout.standing import Rollout
from pipelines.core.rollout.watch import Measure, Watch
from pipelines.gateways.deployments import Deployments
from pipelines.gateways.journal import Journal
from pipelines.gateways.telemetry import Telemetry

LOOK_SECONDS = 0.5
TIDY_SECONDS = 60.0
LOG_BYTES, KEPT_LOG_BYTES = 64 * 2**20, 2**30
"""Of the router's access log: when it is put aside, and how much of what was put aside is kept."""

logger = logging.getLogger("seatrial.controller")


@dataclass
class Controller:
    """Leads the rollouts of all models. `states` are theirs between two looks, by number."""

    deployments: Deployments
    telemetry: Telemetry
    journal: Journal
    clock: Callable[[], float] = time.time
    states: dict[int, State] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    def turn(self) -> None:
        """One look at each model. What goes wrong with one is told, and does not keep the others waiting."""
        for model in self.deployments.ledger.models():
            try:
                self._turn(model)
                self._say(model, "")
            except LedgerMoved:
                self.states.clear()  # somebody else decided: the ledger knows
            except SeatrialError as error:
                self.states.clear()
                self._say(model, str(error))
            except Exception as error:  # noqa: BLE001  a mistake with one model must not end the rollouts of all
                self.states.clear()
                self._say(model, f"{type(error).__name__}: {error}", error)

    def _turn(self, model: str) -> None:
        self.deployments.apply(model)
        found = self.deployments.ledger.standing(model)
        rollout = found.rollout
        if rollout is None:
            self.telemetry.forget(model)
            return
        state, now = self.states.get(rollout.number, rollout.state), self.clock()
        look = self._look(replace(rollout, state=state), now)
        decision = advance(state, rollout.plan, look, now)
        troubles = self.telemetry.troubles(model)
        self.journal.note(model, rollout.number, decision, look, troubles, now)
        self.states[rollout.number] = decision.state
        if decision.action != "hold":
            logger.info("%s: %s: %s", model, decision.action, decision.why)
            self.deployments.act(found, decision)

    def _look(self, rollout: Rollout, now: float) -> Observation:
        stable, canary = self._arms(rollout, now)
        share = rollout.plan.steps[rollout.state.step].canary_share
        return Observation(now - rollout.state.since, share, stable, canary)

    def _arms(self, rollout: Rollout, now: float) -> tuple[Arm | None, Arm | None]:
        """What is known of both; nothing of a canary that is not ready, nothing at all without a router."""
        router, state = self.deployments.router, rollout.state
        try:
            route = router.routes().get(rollout.stable.path)
            if route is None or route.canary is None:
                return None, None
            is_there = router.healthy(route.canary)
        except ServiceFailed:
            return None, None
        kind, bins = rollout.plan.steps[state.step].kind, rollout.setting.get("answers")
        watch = Watch(
            rollout.canary.model, kind, rollout.label, route.stable, route.canary, state.since,
            Answers.from_dict(bins) if bins else None,
            tuple(Measure(**each) for each in rollout.setting.get("metrics", ())),
        )  # fmt: skip
        try:
            stable, canary = self.telemetry.look(watch, now)
        except Exception as error:  # noqa: BLE001  whatever is wrong with its counts, a rollout has a deadline
            self._say(f"{watch.model} counts", f"{type(error).__name__}: {error}", error)
            return None, None
        return stable, canary if is_there else None

    def _say(self, about: str, trouble: str, error: Exception | None = None) -> None:
        """A trouble once, not at each look."""
        if trouble and self.said.get(about) != trouble:
            logger.warning("%s: %s", about, trouble, exc_info=error)
        self.said[about] = trouble


class Aside:
    """Ends services beside the looks, one batch after the other."""

    def __init__(self) -> None:
        self._pool, self._last = ThreadPoolExecutor(1), Future()
        self._last.set_result(None)

    def __call__(self, work: Callable[[], None]) -> None:
        if self._last.done():
            if error := self._last.exception():
                logger.warning("could not end a service: %s", error)
            self._last = self._pool.submit(work)


def main() -> None:
    """Lead until told to end."""
    from pipelines.installation import Installation

    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s")
    installation = Installation.from_environment()
    deployments = installation.deployments
    deployments.draining.aside, deployments.controller = Aside(), None
    lead = Controller(deployments, installation.telemetry, Journal(installation.home))
    tidied = time.monotonic()
    while True:
        began = time.monotonic()
        lead.turn()
        if began - tidied > TIDY_SECONDS:
            tidied = began
            deployments.router.rotate(LOG_BYTES, KEPT_LOG_BYTES)
        left_seconds = LOOK_SECONDS - (time.monotonic() - began)
        time.sleep(max(0.0, left_seconds))  # logs grow by themselves and tell nobody


if __name__ == "__main__":
    main()
