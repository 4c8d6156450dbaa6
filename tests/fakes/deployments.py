"""Deployments without processes: what is staged has the URL fake://TAG, what takes over is only recorded, and
a rollout is over as soon as it begins."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipelines.core.capacity.readings import Usage
from pipelines.core.entries import Action
from pipelines.core.release import Release
from pipelines.core.rollout import controller
from pipelines.core.rollout.plan import Plan
from pipelines.core.rollout.rehearsal import Drill
from pipelines.core.rollout.standing import Rollout
from pipelines.gateways.deployments import Deployments
from pipelines.gateways.drill import Ask
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.services import Staged


class FakeDeployments(Deployments):
    """`staged` lists the tags that were staged, `routes` says which release answers at which path. A rollout
    that begins ends with `outcome`; None: it goes on. `rehearsed` are the release ids of drills."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.staged: list[str] = []
        self.routes: dict[str, str] = {}
        self.outcome: Action | None = "promoted"
        self.rehearsed: list[tuple[str, str]] = []

    @contextmanager
    def stage(self, name: str, tag: str) -> Iterator[Staged]:
        self.staged.append(tag)
        yield Staged(f"fake://{tag}", 0, lambda: Usage(0.0, 0, 0))

    def rehearse(self, stable: Release, canary: Release, ask: Ask, at: str) -> Drill:
        self.rehearsed.append((stable.release_id, canary.release_id))
        return Drill(stable.release_id, canary.release_id, 40, 0, 10, 0.01, 0.02, at)

    def take_over(self, release: Release) -> None:
        found = self.ledger.standing(release.model)
        self.ledger.append(release.model, "deployed", after=found.last, release=release)
        self.routes[release.path] = release.release_id

    def begin(self, release: Release, plan: Plan, setting: Mapping[str, Any]) -> Rollout:
        model, state = release.model, controller.start(plan, 0.0).state
        details = {"plan": plan.to_dict(), "state": state.to_dict(), **setting}
        last = self.ledger.standing(model).last
        begun = self.ledger.append(model, "started", after=last, release=release, details=details)
        if self.outcome:
            self.conclude(release, begun.sequence, self.outcome)
        return self.ledger.standing(model).rollouts[-1]

    def conclude(self, release: Release, number: int, outcome: Action) -> None:
        """End the rollout of this number."""
        rollout = self.ledger.standing(release.model).rollouts[-1]
        state = controller.roll_back(rollout.state, f"the test says {outcome}", 1.0).state
        details = {"state": state.to_dict(), "why": state.why}
        self.ledger.append(
            release.model, outcome, after=number, release=release, rollout=number, details=details
        )
        if outcome == "promoted":
            self.routes[release.path] = release.release_id

    def status(self, model: str) -> dict[str, Any]:
        release = self.ledger.production(model)
        serves = release is not None and self.routes.get(release.path) == release.release_id
        return {
            "release_id": release.release_id if release else None,
            "address": f"http://127.0.0.1:8080{release.path}" if release else None,
            "path": release.path if release else None,
            "state": "RUNNING" if serves else "STOPPED",
            "ready": serves,
        }
