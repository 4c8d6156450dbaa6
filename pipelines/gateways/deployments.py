"""One release taking the place of another, over the doors to services, router and ledger.

The ledger says how it is to be, services and router follow. A service is ready before the router knows it,
the router has confirmed it before the ledger says so, and one ends only when nobody waits for it any more; so
whatever is killed in between, what the ledger says can be brought about again.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.core.entries import Action
from pipelines.core.errors import (
    LedgerMoved,
    LedgerUnusable,
    NothingInProduction,
    NoWayBack,
    RolloutGoesOn,
    SettingsInvalid,
)
from pipelines.core.release import Release
from pipelines.core.rollout import controller
from pipelines.core.rollout.controller import Decision
from pipelines.core.rollout.plan import Plan
from pipelines.core.rollout.rehearsal import Drill
from pipelines.core.rollout.routes import Route, Target
from pipelines.core.rollout.routing import kept, route_of
from pipelines.core.rollout.standing import Rollout, Standing
from pipelines.gateways.bento_store import BentoStore
from pipelines.gateways.containers import Containers
from pipelines.gateways.draining import Draining
from pipelines.gateways.drill import Ask, rehearse
from pipelines.gateways.envoy import Envoy
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.processes import Command, Processes
from pipelines.gateways.router import Router
from pipelines.gateways.services import ALIVE, Services, Staged

CONTROLLER = "controller"
"""The name of its process."""
SAID: Mapping[str, Action] = {
    "set_weight": "moved",
    "promote": "promoted",
    "roll_back": "rolled_back",
    "end": "ended",
}
"""What the ledger says of a decision."""
FOLLOW_SECONDS = 0.5


@dataclass
class Deployments:
    """Services of releases.

    containers      runs releases that have an image; None where there are none
    controller      runs the process that leads rollouts; None: there is none
    staging         makes a router beside production, for a rehearsal
    ready_seconds   a service that is not ready by then has failed
    draining        ends services that are not to run any more
    """

    processes: Processes
    router: Router
    bentos: BentoStore
    ledger: Ledger
    containers: Containers | None = None
    controller: Command | None = None
    staging: Callable[[], Envoy] | None = None
    ready_seconds: float = 60
    draining: Draining = field(init=False)

    def __post_init__(self) -> None:
        self.draining = Draining(self.processes, self.router, self.ledger)

    @property
    def services(self) -> Services:
        return Services(self.processes, self.bentos, self.containers, self.ready_seconds)

    @contextmanager
    def stage(self, name: str, tag: str) -> Iterator[Staged]:
        """Serve a bento apart from production, while the block runs. See Services.stage."""
        with self.services.stage((name, tag, "")) as (staged,):
            yield staged

    def rehearse(self, stable: Release, canary: Release, ask: Ask, at: str) -> Drill:
        """Go back from `canary` to `stable`, which may be the same, apart from production. See
        drill.rehearse. Raises ServiceFailed, PortTaken."""
        assert self.staging
        names = (f"{canary.model}.{arm}" for arm in ("stable", "canary"))
        both = [(name, each.tag, each.image) for name, each in zip(names, (stable, canary), strict=True)]
        with self.services.stage(*both) as staged, ExitStack() as undo:
            router = self.staging()
            undo.callback(self.processes.stop, router.name)
            to, back = (Target(e.release_id, s.port) for e, s in zip((stable, canary), staged, strict=True))
            return rehearse(router, to, back, canary.path, ask, at)

    def take_over(self, release: Release) -> None:
        """Put the release into production at once. If anything fails, all is as it was before. A release that
        serves already is left alone. Raises ServiceFailed, PortTaken, SettingsInvalid, RolloutGoesOn."""
        self._replace(release, "deployed", {})

    def begin(self, release: Release, plan: Plan, setting: Mapping[str, Any]) -> Rollout:
        """Start to roll the release out: its service is ready, the ledger says so, the controller leads on.
        `setting` is kept with the plan. One that goes on is left alone. If anything fails, all is as it was.
        Raises NothingInProduction, RolloutGoesOn, SettingsInvalid, ServiceFailed, LedgerMoved."""
        model = release.model
        with self.ledger.turn(), ExitStack() as undo:
            found = self.ledger.standing(model)
            self._refuse_broken_chain()
            if found.production is None:
                raise NothingInProduction(model)
            if found.rollout and found.rollout.canary.release_id == release.release_id:
                return found.rollout
            if found.rollout:
                raise RolloutGoesOn(model, found.rollout.canary.release_id)
            if found.production.release_id == release.release_id:
                mend = "it serves all users already; there is nothing to roll out"
                raise SettingsInvalid("The release", release.release_id, mend)
            if found.production.path != release.path:
                mend = (
                    f"{model} serves at {found.production.path}; roll out there, or move by strategy: [full]"
                )
                raise SettingsInvalid("serving.path", release.path, mend)
            current = self._bring_up(found)
            target = self._serve(release, undo)
            self.router.route({release.path: replace(current, canary=target)})
            undo.callback(self.router.route, {release.path: current})
            state = controller.start(plan, time.time()).state
            details = {"plan": plan.to_dict(), "state": state.to_dict(), **setting}
            self.ledger.append(model, "started", after=found.last, release=release, details=details)
            undo.pop_all()
        self.apply(model)
        self._watch()
        return self.ledger.standing(model).rollouts[-1]

    def follow(self, model: str, number: int, seconds: float) -> Iterator[Rollout]:
        """A rollout each time that its step, its weight or its outcome changed, until it is over or `seconds`
        have passed."""
        deadline, last = time.monotonic() + seconds, None
        while True:
            rollout = next(each for each in self.ledger.standing(model).rollouts if each.number == number)
            if rollout != last:
                yield rollout
            last = rollout
            if rollout.outcome or time.monotonic() >= deadline:
                return
            time.sleep(FOLLOW_SECONDS)  # the controller is another process

    def act(self, found: Standing, decision: Decision) -> None:
        """Record what was decided of the rollout that goes on, and let the router follow. Going back is done
        even where it can't be recorded. Raises LedgerMoved, ServiceFailed."""
        rollout = found.rollout
        assert rollout and found.production
        release, action = rollout.canary, SAID[decision.action]
        details = {"state": decision.state.to_dict(), "why": decision.why, "findings": decision.findings}
        try:
            self.ledger.append(
                release.model,
                action,
                after=found.last,
                release=release,
                rollout=rollout.number,
                details=details,
            )
        except LedgerMoved:
            raise
        except Exception:  # whatever keeps the ledger from being written, nobody is left with a bad release
            if action == "rolled_back":
                self._without_canary(found.production)
            raise
        self.apply(release.model)

    def roll_back(self, model: str, why: str) -> Release:
        """End the rollout that goes on, or put the release before into production again. Returns what serves
        then. Raises NothingInProduction, NoWayBack, ServiceFailed."""
        while True:
            found = self.ledger.standing(model)
            if found.production is None:
                raise NothingInProduction(model)
            if found.rollout is None:
                break
            with suppress(LedgerMoved):  # the controller was faster: look again
                self.act(found, controller.roll_back(found.rollout.state, why, time.time()))
                return found.production
        if found.former is None:
            raise NoWayBack(model, f"{found.production.release_id} is the first release that ever served")
        self._replace(found.former, "restored", {"why": why})
        return found.former

    def ensure(self, model: str) -> None:
        """Serve what the ledger says, after `down` or a reboot. Raises ServiceFailed, PortTaken, and
        NothingInProduction."""
        with self.ledger.turn():
            found = self.ledger.standing(model)
            if found.production is None:
                raise NothingInProduction(model)
            self._bring_up(found)
        self.apply(model)
        self._watch()

    def apply(self, model: str) -> None:
        """Let the router do what the ledger says, unless it does, and end services that are not needed."""
        found, last = self.ledger.standing(model), -1
        while found.production and found.last != last:  # somebody else's entry may come in between
            last, path = found.last, found.production.path
            current = self.router.routes().get(path)
            targets = {each.release_id: each for each in current.targets} if current else {}
            if current is None or found.production.release_id not in targets:
                return  # after `down`, until somebody says `ensure`, or while it is being replaced
            wanted = route_of(found, targets, time.time())
            if found.rollout is None and self._is_coming(current, model):
                wanted = replace(wanted, canary=current.canary)
            if wanted != current:
                self.router.route({path: wanted})
            self.draining.leave(current.targets - wanted.targets)
            found = self.ledger.standing(model)
        self.draining.end_others(found)

    def down(self) -> None:
        """End every process."""
        self.processes.shutdown()

    def status(self, model: str) -> dict[str, Any]:
        """Which release is in production, its address and process, and whether it answers."""
        release = self.ledger.production(model)
        if release is None:
            return {"release_id": None, "address": None, "path": None, "state": "STOPPED", "ready": False}
        route = self.router.routes().get(release.path)
        return {
            "release_id": release.release_id,
            "address": self.router.address + release.path.rstrip("/"),
            "path": release.path,
            "state": self.processes.states().get(release.process, "STOPPED"),
            "ready": self._ready_target(release, route) is not None,
        }

    def _replace(self, release: Release, action: Action, details: Mapping[str, Any]) -> None:
        model = release.model
        with self.ledger.turn(), ExitStack() as undo:
            found = self.ledger.standing(model)
            if found.rollout:
                raise RolloutGoesOn(model, found.rollout.canary.release_id)
            self._refuse_broken_chain()
            self._refuse_shared_path(release)
            routes, former = self.router.routes(), found.production
            target = self._serve(release, undo)
            wanted = Route(target, label=model, limits=release.limits)
            changes: dict[str, Route | None] = {release.path: wanted}
            if former and former.path != release.path and former.path in routes:
                changes[former.path] = None
            if any(routes.get(path) != route for path, route in changes.items()):
                self.router.route(changes)
                undo.callback(self.router.route, {path: routes.get(path) for path in changes})
            if former != release:
                self.ledger.append(model, action, after=found.last, release=release, details=details)
            undo.pop_all()
        before = {each for path in changes if path in routes for each in routes[path].targets}
        self.draining.leave(before - {target})
        self.draining.end_others(self.ledger.standing(model))
        self._watch()

    def _refuse_broken_chain(self) -> None:
        if fault := self.ledger.fault():
            mend = (
                "nothing is put into production by it; restore it from a backup, see `seatrial ledger verify`"
            )
            raise LedgerUnusable(self.ledger.where, fault, mend)

    def _refuse_shared_path(self, release: Release) -> None:
        for model in self.ledger.models():
            other = self.ledger.production(model)
            if other and model != release.model and other.path == release.path:
                raise SettingsInvalid(
                    "serving.path", release.path, f"{model} answers there, choose another in defs.yaml"
                )

    def _bring_up(self, found: Standing) -> Route:
        """All services that are to run, and the router with them. Returns their route."""
        assert found.production
        starting = {each.release_id: self._start(each) for each in kept(found, time.time())}
        self.router.ensure()
        targets = {release_id: ready() for release_id, ready in starting.items()}
        path, wanted = found.production.path, route_of(found, targets, time.time())
        if self.router.routes().get(path) != wanted:
            self.router.route({path: wanted})
        return wanted

    def _serve(self, release: Release, undo: ExitStack) -> Target:
        """The release where it runs; it is started unless it does."""
        if (target := self._ready_target(release, self.router.routes().get(release.path))) is None:
            undo.callback(self.services.stop, release)
            ready = self.services.start(release)
            self.router.ensure()  # starts, where it must, while the service does
            return ready()
        self.router.ensure()
        return target

    def _start(self, release: Release) -> Callable[[], Target]:
        target = self._ready_target(release, self.router.routes().get(release.path))
        return self.services.start(release) if target is None else lambda: target

    def _ready_target(self, release: Release, route: Route | None) -> Target | None:
        """Where the release runs by the routes, if it does."""
        targets = (each for each in (route.targets if route else ()) if each.release_id == release.release_id)
        return next((each for each in targets if self.services.is_ready(release, each)), None)

    def _without_canary(self, production: Release) -> None:
        current = self.router.routes().get(production.path)
        if current:
            self.router.route({production.path: replace(current, canary=None, weight=0.0, mirrored=0.0)})

    def _is_coming(self, route: Route, model: str) -> bool:
        """Whether somebody is about to begin a rollout: a canary runs, which nobody is sent to yet."""
        if route.canary is None or route.weight or route.mirrored:
            return False
        process = f"{model}-{route.canary.release_id}"
        return any(name.startswith(process) for name in self.processes.states())

    def _watch(self) -> None:
        """See that the controller runs."""
        if self.controller and self.processes.states().get(CONTROLLER) not in ALIVE:
            self.processes.start(CONTROLLER, self.controller)
