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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

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
        return [
            child
            for child in psutil.Process(self.process.pid).children()
            if child.status() != psutil.STATUS_ZOMBIE and "_bentoml_impl.worker.service" in child.cmdline()
        ]

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


def free_port() -> int:
    """Below those that the system hands out to clients: one of them might take it before the server does."""
    for port in random.sample(range(20_000, 32_000), 100):
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
