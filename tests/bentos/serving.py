"""`bentoml serve` for tests: a real server of a release, in processes of its own, on a free port."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

PROJECT = Path(__file__).parents[2]
START_SECONDS = 60


@dataclass
class Served:
    """A server that runs. `process` is BentoML's supervisor, its children are the workers."""

    port: int
    process: subprocess.Popen
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[psutil.Process]:
        return [child for child in psutil.Process(self.process.pid).children() if _is_worker(child)]

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def wait_until_ready(self) -> None:
        until = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"the service is not ready:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)  # a server has no other way to say that it is ready


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "_bentoml_impl.worker.service" in process.cmdline()
    except psutil.NoSuchProcess:  # it has just ended
        return False


class Answer(NamedTuple):
    """What came back; `headers` by their names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Line:
    """A connection to a server, for bytes as they are."""

    def __init__(self, served: Served) -> None:
        self._connection = socket.create_connection(("127.0.0.1", served.port), timeout=30)
        self._received = b""
        self.port: int = self._connection.getsockname()[1]

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, content: bytes) -> None:
        self._connection.sendall(content)

    def end(self) -> None:
        """Say that no more is to come."""
        with suppress(OSError):  # it is gone already
            self._connection.shutdown(socket.SHUT_WR)

    def answer(self) -> Answer:
        """The next one. Raises ConnectionError where there is none."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(self._received) < length:
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return Answer(int(first.split()[1]), headers, body)

    def answers(self) -> list[Answer]:
        """All that come until the server closes."""
        found = []
        with suppress(ConnectionError):
            while True:
                found.append(self.answer())
        return found

    def _receive(self) -> None:
        part = self._connection.recv(65536)
        if not part:
            raise ConnectionError("the server closed")
        self._received += part


def keep_asking(
    served: Served, request: bytes, stop: Callable[[], bool], told: list[tuple[int, int]]
) -> None:
    """Ask again and again until the server says that it closes, or `stop`. Tells of each request the port it
    was sent from and the status of its answer, 0 where there was none."""
    while not stop():
        with suppress(ConnectionRefusedError), Line(served) as line:
            with suppress(OSError):
                while not stop():
                    line.send(request)
                    answer = line.answer()
                    told.append((line.port, answer.status))
                    if answer.headers.get("connection") == "close":
                        return
            if not stop():
                told.append((line.port, 0))


def post(path: str, body: bytes, **headers: str | int) -> bytes:
    """The bytes of a request; `_` in the name of a header stands for `-`. A length that is given replaces the
    true one."""
    said = {"host": "x", "content-length": len(body)}
    said |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def metric(served: Served, name: str, **labels: str) -> float:
    """The sum of all series of a metric that have these labels."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"{served.url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"seatrial_{name}" and labels.items() <= sample.labels.items()
    )


def free_port() -> int:
    """Below those that the system hands out to clients: one of them might take it before the server does.
    Workers side by side have ports of their own, for the same reason."""
    first = 20_000 + 4_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 3)
    for port in random.sample(range(first, first + 4_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def start(folder: Path, packed: Path, **environment: str) -> Served:
    """Start a server of the release in `packed` (model.onnx and manifest.json); `folder` gets its home."""
    version = packed.name
    store = folder / "home" / "models" / "served" / version
    shutil.copytree(packed, store)
    (store / "model.yaml").write_text(MODEL_YAML.format(version=version))
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "bentos.service:Predictor"]
    command += ["--arg", f"release=served:{version}", "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "BENTOML_HOME": str(folder / "home"), "BENTOML_DO_NOT_TRACK": "True", **environment}
    log = folder / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=PROJECT, env=env, stdout=output, stderr=output)
    return Served(port, process, log)


def end(served: Served) -> None:
    """Ctrl-C as a user would, and no process left behind."""
    family = [*psutil.Process(served.process.pid).children(recursive=True)] if _runs(served) else []
    served.process.send_signal(signal.SIGTERM)
    try:
        served.process.wait(20)
    except subprocess.TimeoutExpired:
        served.process.kill()
        served.process.wait()
    for process in family:
        if process.is_running():
            process.kill()


def _runs(served: Served) -> bool:
    return served.process.poll() is None


@contextmanager
def serving(folder: Path, packed: Path, **environment: str) -> Iterator[Served]:
    """A server that is ready, for the length of the block."""
    served = start(folder, packed, **environment)
    try:
        served.wait_until_ready()
        yield served
    finally:
        end(served)


MODEL_YAML = """\
name: served
version: {version}
module: ''
labels: {{}}
options: {{}}
metadata: {{}}
context:
  framework_name: ''
  framework_versions: {{}}
  bentoml_version: 1.4.39
  python_version: 3.11.7
signatures: {{}}
api_version: v1
creation_time: '2026-01-01T00:00:00+00:00'
"""
