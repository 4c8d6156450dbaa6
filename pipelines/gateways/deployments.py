"""One release taking over from another, over the doors to bentos, processes, router and ledger.

The order is what keeps requests safe: the new service is ready before the router knows it, the router has
confirmed it before the ledger says so, and the old one ends only when nobody waits for it any more.
"""

import http.client
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from pipelines.core.capacity.readings import Usage
from pipelines.core.errors import NothingInProduction, ServiceFailed, SettingsInvalid
from pipelines.gateways.bento_store import BentoStore
from pipelines.gateways.envoy import Router, Target
from pipelines.gateways.ledger import Action, Entry, Ledger
from pipelines.gateways.processes import Processes

PORTS = range(20_000, 32_000)  # below those that the system hands out to clients
ALIVE = ("STARTING", "RUNNING")


@dataclass(frozen=True)
class Release:
    """What is put into production; see `Entry` for the fields."""

    model: str
    version: str
    release_id: str
    rung: str
    tag: str
    path: str
    artifact: str
    evidence: Mapping[str, Any]

    @classmethod
    def of(cls, entry: Entry) -> "Release":
        return cls(**{name: getattr(entry, name) for name in cls.__dataclass_fields__})

    @property
    def process(self) -> str:
        return f"{self.model}-{self.release_id}"


@dataclass(frozen=True)
class Staged:
    """A service apart from production: its base URL, and what its processes use. That raises ServiceFailed
    once they are gone."""

    url: str
    usage: Callable[[], Usage]


@dataclass
class Deployments:
    """Services of releases.

    ready_seconds   a service that is not ready by then has failed
    drain_seconds   how long requests in flight may keep an old service alive
    """

    processes: Processes
    router: Router
    bentos: BentoStore
    ledger: Ledger
    ready_seconds: float = 60
    drain_seconds: float = 60

    @contextmanager
    def stage(self, name: str, tag: str) -> Iterator[Staged]:
        """Serve a bento apart from production, without a prediction log, while the block runs. Yields the
        ready service. Raises ServiceFailed."""
        process = f"{name}.stage"
        with ExitStack() as undo:
            undo.callback(self.processes.stop, process)
            port = self._start(process, tag, logged=False)
            self._wait_until_ready(process, port)
            yield Staged(f"http://127.0.0.1:{port}", partial(self.processes.usage, process))

    def take_over(self, release: Release, action: Action = "deployed") -> None:
        """Put the release into production. If anything fails, all is as it was before. A release that serves
        already is left alone. Raises ServiceFailed, PortTaken, SettingsInvalid."""
        with self.ledger.turn():
            self._refuse_shared_path(release)
            former, routes = self.ledger.production(release.model), self.router.routes()
            with ExitStack() as undo:
                target = self._serve(release, former, routes, undo)
                if former is None or former.release_id != release.release_id:
                    self._record(release, action, target)
                undo.pop_all()
            self._retire(release, routes)

    def ensure(self, model: str) -> None:
        """Serve what is in production, after `down` or a reboot. Raises as `take_over`, and
        NothingInProduction."""
        production = self.ledger.production(model)
        if production is None:
            raise NothingInProduction(model)
        self.take_over(Release.of(production))

    def down(self) -> None:
        """End every process."""
        self.processes.shutdown()

    def status(self, model: str) -> dict[str, Any]:
        """Which release is in production, its address and process, and whether it answers."""
        production = self.ledger.production(model)
        if production is None:
            return {"release_id": None, "address": None, "path": None, "state": "STOPPED", "ready": False}
        release = Release.of(production)
        return {
            "release_id": release.release_id,
            "address": self.router.address + release.path.rstrip("/"),
            "path": release.path,
            "state": self.processes.states().get(release.process, "STOPPED"),
            "ready": self._is_ready(release),
        }

    def _refuse_shared_path(self, release: Release) -> None:
        for model in self.ledger.models():
            other = self.ledger.production(model)
            if other and model != release.model and other.path == release.path:
                raise SettingsInvalid(
                    "serving.path", release.path, f"{model} answers there, choose another in defs.yaml"
                )

    def _serve(
        self, release: Release, former: Entry | None, routes: Mapping[str, Target], undo: ExitStack
    ) -> Target:
        """Start the release and route to it, unless that is so already."""
        if self._is_ready(release):
            self.router.ensure()
            return routes[release.path]
        undo.callback(self.processes.stop, release.process)
        target = Target(release.release_id, self._start(release.process, release.tag, logged=True))
        self.router.ensure()  # starts, where it must, while the service does
        self._wait_until_ready(release.process, target.port)
        self._check_identity(release, target)
        others = {path: to for path, to in routes.items() if former is None or path != former.path}
        self.router.route({**others, release.path: target})
        undo.callback(self.router.route, routes)
        return target

    def _start(self, process: str, tag: str, *, logged: bool) -> int:
        """Start the bento as `process`. Returns its port, which was free."""
        port = free_port()
        self.processes.start(process, self.bentos.command(tag, port, logged=logged))
        return port

    def _wait_until_ready(self, process: str, port: int) -> None:
        deadline = time.monotonic() + self.ready_seconds
        while _answer(port, "/readyz")[0] != 200:
            state = self.processes.states().get(process, "STOPPED")
            if state not in ALIVE:
                raise self._failure(process, f"ended before it was ready ({state})")
            if time.monotonic() > deadline:
                raise self._failure(process, f"was not ready within {self.ready_seconds:g} s")
            time.sleep(0.05)  # nobody tells when a port begins to answer

    def _failure(self, process: str, reason: str) -> ServiceFailed:
        log = self.processes.log(process)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        last = " | ".join(line.strip() for line in lines[-3:] if line.strip())
        return ServiceFailed(process, f"{reason}: {last}" if last else reason, log)

    def _check_identity(self, release: Release, target: Target) -> None:
        answers = (_answer(target.port, path)[1] for path in ("/readyz", "/livez"))
        found = next((header for header in answers if header), None)
        if found != release.release_id:
            reason = f"says it is release {found} where {release.release_id} is expected"
            raise self._failure(release.process, reason)

    def _is_ready(self, release: Release) -> bool:
        """Whether the release runs where the router sends its requests."""
        target = self.router.routes().get(release.path)
        if target is None or target.release_id != release.release_id:
            return False
        running = self.processes.states().get(release.process) in ALIVE
        return running and _answer(target.port, "/readyz")[0] == 200

    def _record(self, release: Release, action: Action, target: Target) -> None:
        fields = {name: value for name, value in asdict(release).items() if name != "model"}
        self.ledger.record(release.model, action, {**fields, "port": target.port})

    def _retire(self, release: Release, routes: Mapping[str, Target]) -> None:
        """Once they are idle, end the other services of the model, one that a crash left behind included."""
        deadline = time.monotonic() + self.drain_seconds
        current = self.router.routes()
        for target in set(routes.values()) - set(current.values()):
            while self.router.in_flight(target) and time.monotonic() < deadline:
                time.sleep(0.05)  # the router only says how many are left when it is asked
        for process in self.processes.states():
            if process.startswith(f"{release.model}-") and process != release.process:
                self.processes.stop(process)
        self.router.route(current)  # forgets the former target, which may have been busy until now


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has."""
    while True:
        port = random.choice(PORTS)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _answer(port: int, path: str) -> tuple[int, str | None]:
    """Status and x-release-id of a GET; status 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers["x-release-id"]
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()
