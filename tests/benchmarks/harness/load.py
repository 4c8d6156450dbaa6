"""Load from the generator's core: as fast as answers come (wrk), or when it is due (Poisson arrivals)."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from pipelines.core.errors import SeatrialError
from pipelines.core.latency import Offer, Samples, Stage, fell_behind
from pipelines.gateways.payloads import Payloads
from pipelines.gateways.traffic import OpenLoop
from tests.benchmarks.harness.machine import GENERATOR_CORE, on_the_generators_core

WRK_SCRIPT = Path(__file__).with_name("post.lua")
ATTEMPTS = 3
PATIENCE_SECONDS = 2.0
"""A request without an answer after so long has failed."""


class LoadFailed(RuntimeError):
    """The load could not be put on the server as asked, so nothing was measured."""


@dataclass(frozen=True)
class Closed:
    """What wrk counted: answers of status 2xx and others, and how long it ran."""

    ok: int
    failed: int
    seconds: float

    @property
    def rps(self) -> float:
        return self.ok / self.seconds


@dataclass(frozen=True)
class Open:
    """One stage of Poisson arrivals, request by request; latencies count from when one was due."""

    stage: Stage
    samples: Samples

    def good(self, slo_ms: float) -> int:
        """Answers of status 2xx within the objective."""
        return int((self.samples.ok & (self.samples.latency_ms <= slo_ms)).sum())

    def refused(self) -> np.ndarray:
        """Whether a request was told to come back later."""
        return self.samples.refused

    def refusal_p99_ms(self) -> float:
        """How long a refusal took; 0 where there was none."""
        return self.stage.refused_p99_ms


def closed_loop(
    url: str,
    bodies: Sequence[bytes],
    headers: Mapping[str, str],
    seconds: float,
    folder: Path,
    connections: int = 32,
) -> Closed:
    """POST the bodies in turn over kept-alive connections, each waiting for its answer. Raises LoadFailed."""
    if not shutil.which("wrk"):
        raise LoadFailed("wrk is not installed: `apt-get install wrk`.")
    files = []
    for number, body in enumerate(bodies):
        (file := folder / f"body-{number}").write_bytes(body)
        files.append(str(file))
    fields = [part for pair in headers.items() for part in pair]
    options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", "--timeout", "10s"]
    wrk = ["taskset", "-c", str(GENERATOR_CORE), "wrk", *options, "-s", str(WRK_SCRIPT), url, "--"]
    argv = [*wrk, str(len(files)), *files, *fields]
    ended = subprocess.run(argv, capture_output=True, text=True)
    if ended.returncode:
        raise LoadFailed(f"wrk failed: {(ended.stderr or ended.stdout).strip()[-300:]}")
    told = json.loads(ended.stdout.strip().splitlines()[-1])
    return Closed(told["requests"] - told["status"], told["status"] + told["socket"], told["us"] / 1e6)


def open_loop(
    url: str,
    bodies: Sequence[bytes],
    headers: Mapping[str, str],
    rate_rps: float,
    seconds: float,
    slo_ms: float,
    seed: int,
) -> Open:
    """One stage at a rate, whether or not the server keeps up. Raises LoadFailed where the generator did not
    keep up, in so many attempts."""
    parts = urlsplit(url)
    payloads = Payloads("json", parts.path, bodies, [tuple(headers.items())] * len(bodies))
    send = partial(OpenLoop(timeout_s=PATIENCE_SECONDS).run, f"http://{parts.netloc}", payloads)
    void = None
    for attempt in range(ATTEMPTS):
        with on_the_generators_core():
            try:
                result = send([Offer("open loop", rate_rps, seconds)], seed + attempt)
            except SeatrialError as error:
                raise LoadFailed(str(error)) from error
        stage, samples = result.stages[0], result.samples[0]
        void = fell_behind(stage, slo_ms)
        if not void:
            return Open(stage, samples)
    raise LoadFailed(f"{ATTEMPTS} attempts are void: {void}.")
