"""Ending services that nobody is sent to any more, once nobody waits for them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipelines.core.rollout.routes import Target
from pipelines.core.rollout.routing import kept
from pipelines.core.rollout.standing import Standing
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.processes import Processes
from pipelines.gateways.router import Router


@dataclass
class Draining:
    """Of the services of every model.

    seconds   how long requests in flight may keep an old service alive
    aside     how services are ended, which takes a while: at once, or beside other work
    """

    processes: Processes
    router: Router
    ledger: Ledger
    seconds: float = 60
    aside: Callable[[Callable[[], None]], object] = field(default=lambda work: work())
    _left: set[Target] = field(default_factory=set, init=False)

    def leave(self, targets: Iterable[Target]) -> None:
        """Nobody is sent there any more."""
        self._left |= set(targets)

    def end_others(self, found: Standing) -> None:
        """End the model's services that are not to run, one that a crash left behind included."""
        if found.production and self._superfluous(found):
            model = found.production.model
            self.aside(lambda: self._end(model))

    def _end(self, model: str) -> None:
        deadline, leaving = time.monotonic() + self.seconds, set(self._left)
        for target in leaving:
            while self.router.in_flight(target) and time.monotonic() < deadline:
                time.sleep(0.05)  # the router only says how many are left when it is asked
        with self.ledger.turn():  # a release that is just being started is not in the ledger yet
            for process in self._superfluous(self.ledger.standing(model)):
                self.processes.stop(process)
        self._left -= leaving
        self.router.route({})  # forgets former targets, which may have been busy until now

    def _superfluous(self, found: Standing) -> set[str]:
        assert found.production
        running = (each for each in self.processes.states() if each.startswith(f"{found.production.model}-"))
        return set(running) - {each.process for each in kept(found, time.time())}
