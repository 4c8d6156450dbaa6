"""A release as a running service: started from its bento or its image, ready, and who it says it is."""

import http.client
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from pipelines.core.capacity.readings import Usage
from pipelines.core.errors import ServiceFailed
from pipelines.core.release import Release
from pipelines.core.rollout.routes import Target
from pipelines.gateways.bento_store import BentoStore
from pipelines.gateways.containers import Containers
from pipelines.gateways.processes import Command, Processes

PORTS = range(20_000, 32_000)  # below those that the system hands out to clients
ALIVE = ("STARTING", "RUNNING")


@dataclass(frozen=True)
class Staged:
    """A service apart from production: its base URL and port, and what its processes use. That raises
    ServiceFailed once they are gone."""

    url: str
    port: int
    usage: Callable[[], Usage]


@dataclass
class Services:
    """`containers` is None where none is run. `ready_seconds`: what is not ready by then has failed."""

    processes: Processes
    bentos: BentoStore
    containers: Containers | None = None
    ready_seconds: float = 60

    @contextmanager
    def stage(self, *wanted: tuple[str, str, str]) -> Iterator[list[Staged]]:
        """Serve bentos apart from production, without a prediction log, while the block runs: a name, the tag
        and the image of each, empty for none. Yields them when all are ready. Raises ServiceFailed."""
        with ExitStack() as undo:
            ports = {f"{name}.stage": free_port() for name, _, _ in wanted}
            for (process, port), (_, tag, image) in zip(ports.items(), wanted, strict=True):
                undo.callback(self.processes.stop, process)
                self.processes.start(process, self._command(process, tag, image, port, logged=False))
            for process, port in ports.items():
                self._wait_until_ready(process, port)
            yield [
                Staged(f"http://127.0.0.1:{port}", port, partial(self.processes.usage, process))
                for process, port in ports.items()
            ]

    def start(self, release: Release) -> Callable[[], Target]:
        """Start the service of a release at a free port. What is returned waits until it is ready, and raises
        ServiceFailed where it is not, or is another release."""
        target, process = Target(release.release_id, free_port()), release.process
        command = self._command(process, release.tag, release.image, target.port, logged=True)
        self.processes.start(process, command)

        def ready() -> Target:
            self._wait_until_ready(process, target.port)
            self._check_identity(release, target)
            return target

        return ready

    def stop(self, release: Release) -> None:
        self.processes.stop(release.process)

    def is_ready(self, release: Release, target: Target) -> bool:
        """Whether the release runs there."""
        running = self.processes.states().get(release.process) in ALIVE
        return running and _answer(target.port, "/readyz")[0] == 200

    def _command(self, process: str, tag: str, image: str, port: int, *, logged: bool) -> Command:
        if not image:
            return self.bentos.command(tag, port, logged=logged)
        if self.containers is None:
            raise ServiceFailed(process, "runs from an image, and there is nothing that runs images")
        return self.containers.command(image, port, name=process, logged=logged)

    def _wait_until_ready(self, process: str, port: int) -> None:
        deadline = time.monotonic() + self.ready_seconds
        while _answer(port, "/readyz")[0] != 200:
            state = self.processes.states().get(process, "STOPPED")
            if state not in ALIVE:
                raise self._failure(process, f"ended before it was ready ({state})")
            if time.monotonic() > deadline:
                raise self._failure(process, f"was not ready within {self.ready_seconds:g} s")
            time.sleep(0.05)  # nobody tells when a port begins to answer

    def _check_identity(self, release: Release, target: Target) -> None:
        answers = (_answer(target.port, path)[1] for path in ("/readyz", "/livez"))
        found = next((header for header in answers if header), None)
        if found != release.release_id:
            reason = f"says it is release {found} where {release.release_id} is expected"
            raise self._failure(release.process, reason)

    def _failure(self, process: str, reason: str) -> ServiceFailed:
        log = self.processes.log(process)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        last = " | ".join(line.strip() for line in lines[-3:] if line.strip())
        return ServiceFailed(process, f"{reason}: {last}" if last else reason, log)


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
