"""A rollback rehearsed in staging: real services behind a real router, real rows, and a clock."""

import http.client
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count

from pipelines.core.rollout.rehearsal import Drill
from pipelines.core.rollout.routes import Route, Target
from pipelines.gateways.payloads import Payloads
from pipelines.gateways.router import Router

CLIENTS, PAUSE_SECONDS, USERS = 4, 0.1, 64
"""Up to 40 requests a second."""
BEFORE_SECONDS, AFTER_SECONDS, CANARY_SECONDS, DRAIN_SECONDS = 1.0, 1.0, 10.0, 10.0
ANSWER_SECONDS = 30

Ask = Callable[[str, str], str | None]
"""Asks the service at a URL as a user; returns the x-release-id of a good answer, None for any other."""


@dataclass
class _Traffic:
    """What came of the requests: (when, release id), None in place of it where one failed."""

    answers: list[tuple[float, str | None]] = field(default_factory=list)

    def of(self, release_id: str) -> list[float]:
        return [at for at, answered in self.answers if answered == release_id]


def rehearse(router: Router, stable: Target, canary: Target, path: str, ask: Ask, at: str) -> Drill:
    """Half of the users are on the canary, and then none: how long that takes, and what it costs them.

    `router` is one of its own, not that of production; both services are ready, and may be two of the same
    release. `at` is the time, as it is kept. Takes about 2 s, longer where the canary does not answer at
    first. Raises ServiceFailed, PortTaken.
    """
    router.ensure()
    apart = canary.release_id != stable.release_id
    half = Route(stable, canary, weight=0.5, salt=f"drill/{at}", label="drill")
    router.route({path: half})
    try:
        with _clients(ask, router.address + path.rstrip("/")) as traffic:
            time.sleep(BEFORE_SECONDS)  # users ask meanwhile
            patience = time.monotonic() + CANARY_SECONDS
            while apart and not traffic.of(canary.release_id) and time.monotonic() < patience:
                time.sleep(0.05)  # on a busy machine the stand-in may have answered for it so far
            commanded = time.monotonic()
            router.route({path: replace(half, weight=0.0)})
            confirmed = time.monotonic()
            while router.in_flight(canary) and time.monotonic() < confirmed + DRAIN_SECONDS:
                time.sleep(0.01)  # the router only says how many are left when it is asked
            idle = time.monotonic()
            time.sleep(AFTER_SECONDS)  # whoever is late is seen
    finally:
        router.route({path: None})
    seen = traffic.of(canary.release_id) if apart else None
    return Drill(
        stable.release_id,
        canary.release_id,
        len(traffic.answers),
        sum(answered is None for _, answered in traffic.answers),
        None if seen is None else sum(when < commanded for when in seen),
        confirmed - commanded,
        max([idle, *(seen or ())]) - commanded,
        at,
    )


def asking(requests: Payloads) -> Ask:
    """Sends these requests in turn."""
    turns = count()

    def ask(url: str, user: str) -> str | None:
        turn = next(turns) % len(requests.bodies)
        headers = {**dict(requests.headers[turn]), "x-user-id": user}
        request = urllib.request.Request(url + requests.path, requests.bodies[turn], headers)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
                response.read()
                return response.headers["x-release-id"]
        except (OSError, http.client.HTTPException):
            return None

    return ask


@contextmanager
def _clients(ask: Ask, url: str) -> Iterator[_Traffic]:
    """Users who ask while the block runs; all have their answer when it ends."""
    traffic, over = _Traffic(), threading.Event()

    def client(number: int) -> None:
        for turn in count(number, CLIENTS):
            if over.wait(PAUSE_SECONDS):
                return
            answered = ask(url, f"user-{turn % USERS}")
            traffic.answers.append((time.monotonic(), answered))

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield traffic
    finally:
        over.set()
        for thread in threads:
            thread.join()
