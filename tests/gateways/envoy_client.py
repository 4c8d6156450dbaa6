"""What the tests of Envoy share: services to start, a client to ask with, and many clients at once."""

import http.client
import random
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from pipelines.core.rollout.routes import Target
from pipelines.gateways.processes import Command, Processes
from tests.fakes import service
from tests.until import until


class Answer(NamedTuple):
    status: int
    release: str | None
    body: str
    headers: Mapping[str, str]


class Client:
    """Keeps its connection, as clients do."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request("GET" if body is None else "POST", path, body, sent)
        response = self.connection.getresponse()
        told = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, told.get("x-release-id"), response.read().decode(), told)


def free_port() -> int:
    while True:
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", random.randrange(12_000, 20_000)))
            return probe.getsockname()[1]


def answer(url: str, body: bytes | None = None, **headers: str) -> Answer | None:
    """None where nobody answers."""
    client, path = Client(url), urlsplit(url)._replace(scheme="", netloc="").geturl()
    try:
        return client.ask(path, body, **headers)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        client.connection.close()


def serve(processes: Processes, *release_ids: str, mode: str = "serves") -> list[Target]:
    """Start services; returns their targets once they answer."""
    targets = [Target(release_id, free_port()) for release_id in release_ids]
    for target in targets:
        launch(processes, target, mode)
    for target in targets:
        until(lambda target=target: answer(f"http://127.0.0.1:{target.port}/livez"))
    return targets


def launch(processes: Processes, target: Target, mode: str = "serves") -> None:
    argv = (sys.executable, str(Path(service.__file__)), str(target.port), target.release_id, mode)
    processes.start(f"service-{target.release_id}", Command(argv))


def seen(target: Target) -> list[str]:
    """The ids of the requests that it was asked."""
    found = answer(f"http://127.0.0.1:{target.port}/seen")
    assert found
    return found.body.split()


@contextmanager
def load(url: str, clients: int = 4) -> Iterator[list[Answer | None]]:
    """Ask without a pause while the block runs, with as many users as clients. Yields what is answered."""
    answers: list[Answer | None] = []
    stop = threading.Event()

    def ask(user: str) -> None:
        while not stop.is_set():
            answers.append(answer(url, x_user_id=user))

    threads = [threading.Thread(target=ask, args=(f"user-{each}",)) for each in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
