"""How many requests a service has answered, by its own count: all there is of copies of requests, which the
router does not log."""

import re
from collections.abc import Mapping
from http.client import HTTPException
from urllib.request import urlopen

from pipelines.core.rollout.counting import ArmTally, Rises
from pipelines.core.rollout.observation import ArmName
from pipelines.core.rollout.watch import Watch

REQUESTS = re.compile(rb'^seatrial_requests_total\{outcome="(\w+)",way="(\w+)"\} (\S+)$', re.MULTILINE)
TIMEOUT_SECONDS = 0.5
EVERY_SECONDS = 2.0
"""To write its metrics down takes a service some ms, in which it answers nobody."""


class ServiceCounts:
    """The rise since the first look: a controller that is started again begins anew, where it is."""

    def __init__(self, port: int) -> None:
        self._url, self._next, self._rises = f"http://127.0.0.1:{port}/metrics", 0.0, Rises()
        self._found: tuple[int, int] | None = None
        self.trouble = ""

    def look(self, now: float) -> tuple[int, int] | None:
        """Requests and those that failed, of which the client's mistakes are neither; None while the service
        does not tell."""
        if now >= self._next:
            self._next, self.trouble = now + EVERY_SECONDS, ""
            try:
                self._found = _counted(self._rises.see(_counters(self._url)))
            except (OSError, HTTPException, ValueError) as error:
                self._found, self.trouble = None, f"{self._url} does not tell its counts: {error}"
        return self._found


class ServiceRequests:
    """One step's requests as both services count them."""

    def __init__(self, watch: Watch) -> None:
        self._services: dict[ArmName, ServiceCounts] = {
            "stable": ServiceCounts(watch.stable.port),
            "canary": ServiceCounts(watch.canary.port),
        }

    def add(self, tallies: Mapping[ArmName, ArmTally], now: float) -> set[ArmName]:
        known = set[ArmName]()
        for arm, service in self._services.items():
            if found := service.look(now):
                tallies[arm].requests, tallies[arm].errors = found
                known.add(arm)
        return known

    def troubles(self) -> dict[str, str]:
        return {f"metrics of {arm}": service.trouble for arm, service in self._services.items()}


def _counters(url: str) -> dict[tuple[bytes, bytes], float]:
    with urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
        found = {(outcome, way): float(count) for outcome, way, count in REQUESTS.findall(answer.read())}
    if not found:
        raise ValueError("there are no seatrial_requests among them")
    return found


def _counted(rises: Mapping[tuple[bytes, bytes], float]) -> tuple[int, int]:
    outcomes = {outcome: 0.0 for outcome, _ in rises}
    for (outcome, _), rise in rises.items():
        outcomes[outcome] += rise
    said = sum(outcomes.values()) - outcomes.get(b"client_error", 0.0)
    return int(said), int(said - outcomes.get(b"ok", 0.0))
