"""A contestant: a server with an environment of its own, and how one talks to it.

A peer is a folder with `requirements.txt` and, unless its `command` says otherwise, `server.py`. That file
runs in the peer's environment and sees nothing of ours but the folder `kit`; what it must know is in its
environment variables: NET (the ONNX file), NET_PORT, NET_BATCH_ROWS, NET_LATENCY_MS, NET_SCRATCH (a
folder that is gone when it ends).
"""

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bentos.contract import Contract
from pipelines.gateways.environments import python_with
from pipelines.gateways.processes import Command
from pipelines.gateways.services import free_port
from tests.benchmarks.harness.machine import cache
from tests.benchmarks.harness.processes import Tree, running

READY_SECONDS = 120
CHECKED_ROWS = 16
TOLERANCE = 1e-3
JSON = {"content-type": "application/json"}


class PeerFailed(RuntimeError):
    """A peer could not be installed, did not start, or answers wrongly: it has no figures."""


@dataclass(frozen=True)
class Net:
    """A model to serve. `rows` are requests of one row, as {input: value}; `expected` is what the model's
    only output, one number a row, is for the first of them.

    batch_rows, latency_ms, lengths   the most rows of a batch, the deadline of a request, the length buckets
    """

    name: str
    file: Path
    contract: Contract
    rows: Sequence[Mapping]
    batch_rows: int = 64
    latency_ms: float = 1000.0
    lengths: tuple[int, ...] = ()

    @cached_property
    def expected(self) -> list[float]:
        from bentos.engines.engine import Engine

        engine, name = Engine(self.file, self.contract), self.contract.outputs[0].name
        names = [(field.name, field.dtype) for field in self.contract.inputs]
        feeds = (
            {key: np.array([row[key]], dtype) for key, dtype in names} for row in self.rows[:CHECKED_ROWS]
        )
        return [float(engine.run(feed)[name][0]) for feed in feeds]


@dataclass(frozen=True)
class Peer:
    """The plainest peer: POST /predict, one row in a JSON object, one number in another."""

    name: str
    folder: Path
    kit: Path

    def command(self, net: Net, port: int, scratch: Path) -> Command:
        """How to serve `net` on 127.0.0.1:`port`. Raises BuildFailed."""
        return Command((str(self.python()), "server.py"), self.env(net, port, scratch))

    def python(self) -> Path:
        """Of the peer's environment, which is made on first use. Raises BuildFailed."""
        return python_with(self.folder / "requirements.txt", cache() / "environments")

    def env(self, net: Net, port: int, scratch: Path) -> dict[str, str]:
        return {
            "NET": str(net.file),
            "NET_PORT": str(port),
            "NET_SCRATCH": str(scratch),
            "NET_BATCH_ROWS": str(net.batch_rows),
            "NET_LATENCY_MS": str(net.latency_ms),
            "PYTHONPATH": str(self.kit),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def path(self, net: Net) -> str:
        return "/predict"

    def body(self, net: Net, row: Mapping) -> bytes:
        return json.dumps(row).encode()

    def value(self, net: Net, answer: bytes) -> float:
        """The number in the answer."""
        return json.loads(answer)["y"]

    def versions(self) -> list[str]:
        lines = (self.folder / "requirements.txt").read_text().splitlines()
        return [line for line in lines if line and not line.startswith("#")]


@dataclass(frozen=True)
class Served:
    """A peer that answers. `bodies` are its requests, one for each row of the net, to be sent to `path`."""

    port: int
    path: str
    bodies: list[bytes]
    tree: Tree
    scratch: Path

    @property
    def url(self) -> str:
        return self.at(self.path)

    def at(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def ask(self, path: str, body: bytes, headers: Mapping[str, str] = JSON) -> tuple[int, bytes]:
        """Status and body of the answer to one POST; status 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", path, body, dict(headers))
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()


@contextmanager
def serving(peer: Peer, net: Net) -> Iterator[Served]:
    """A fresh server, which has answered rightly. Raises PeerFailed, BuildFailed."""
    port = free_port()
    with TemporaryDirectory(prefix="seatrial-") as folder:
        scratch = Path(folder)
        command, log = peer.command(net, port, scratch), scratch / "log"
        with running(command.argv, command.env, peer.folder, log) as tree:
            bodies = [peer.body(net, row) for row in net.rows]
            served = Served(port, peer.path(net), bodies, tree, scratch)
            _await_ready(peer, net, served, log)
            _check_answers(peer, net, served)
            yield served


def _await_ready(peer: Peer, net: Net, served: Served, log: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while (status := served.ask(served.path, served.bodies[0])[0]) != 200:
        if time.monotonic() > until or not served.tree.alive():
            said = log.read_text(errors="replace")[-2000:]
            raise PeerFailed(f"{peer.name} does not serve {net.name} (status {status}). It says: {said}")
        time.sleep(0.2)


def _check_answers(peer: Peer, net: Net, served: Served) -> None:
    for body, expected in zip(served.bodies, net.expected, strict=False):
        status, answer = served.ask(served.path, body)
        if status != 200 or abs(peer.value(net, answer) - expected) > TOLERANCE * max(1, abs(expected)):
            raise PeerFailed(f"{peer.name} answers {status} {answer[:300]!r} where {expected} is right.")
