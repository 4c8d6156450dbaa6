"""Ours and k6, each on the generator's core against a fresh target on the server's: the CPU time of a
request, without that of starting up, and the share of the asked rate that was sent."""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.core.latency import Offer
from pipelines.gateways.payloads import JSON_TYPE, Payloads
from pipelines.gateways.services import free_port
from pipelines.gateways.traffic import OpenLoop
from tests.benchmarks.harness.load import LoadFailed
from tests.benchmarks.harness.machine import GENERATOR_CORE, on_the_generators_core
from tests.benchmarks.harness.processes import running
from tests.benchmarks.harness.report import show
from tests.benchmarks.harness.rounds import Effort, Figures, take_turns

PROJECT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("script.js")
RATES = (500, 2000, 8000)
LIMIT = 1.0
"""At most so many times the CPU time of a request of k6."""
BODIES = [
    json.dumps({"rows": [{"carrier": "AA", "origin": "JFK", "hour": at % 24, "delay": at / 7, "wind": None}]})
    for at in range(100)
]
START_SECONDS = 1.0
SEED = 5


def k6() -> str | None:
    """Where it is installed."""
    return os.environ.get("K6") or shutil.which("k6")


def measure(effort: Effort) -> dict:
    """Each generator's figures at each rate, and the ratios of our CPU time to k6's."""
    found = k6()
    assert found, "k6 is not installed"
    version = subprocess.run([found, "version"], capture_output=True, text=True).stdout.split("\n")[0]
    rates = {}
    for rate_rps in RATES:
        turns = {
            "ours": partial(_ours, rate_rps, effort.seconds),
            "k6": partial(_k6, found, rate_rps, effort.seconds),
        }
        taken = take_turns(turns, effort.rounds)
        ratio = taken.ratio("ours", "k6", "cpu_us")
        rates[str(rate_rps)] = {"generators": taken.told(), "ours_to_k6": ratio}
    show("CPU time of a request sent", [_row(rate, told) for rate, told in rates.items()])
    return {"versions": [version], "rates": rates}


def _row(rate: str, told: dict) -> dict:
    figures = {
        f"{name} {figure}": each.get(figure, {}).get("median", each.get("failed", "–"))
        for name, each in told["generators"].items()
        for figure in ("cpu_us", "sent_share")
    }
    return {"asked rate": rate, **figures, "ours ÷ k6": (told["ours_to_k6"] or {}).get("median", "–")}


@contextmanager
def _target() -> Iterator[str]:
    port = free_port()
    with TemporaryDirectory(prefix="seatrial-") as folder:
        argv = [sys.executable, "-m", "tests.benchmarks.load.target", str(port)]
        with running(argv, {}, PROJECT, Path(folder) / "log"):
            until = time.monotonic() + START_SECONDS * 20
            while not _listens(port):
                if time.monotonic() > until:
                    raise LoadFailed("The target did not start.")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _ours(rate_rps: float, seconds: float) -> Figures:
    bodies = [body.encode() for body in BODIES]
    given = Payloads("json", "/predict", bodies, [(JSON_TYPE,)] * len(bodies))
    offers = [Offer("start", rate_rps, START_SECONDS), Offer("load", rate_rps, seconds)]
    with _target() as url, on_the_generators_core():
        stage = OpenLoop().run(url, given, offers, SEED).stages[-1]
    if stage.errors:
        raise LoadFailed(f"{stage.errors} of {stage.requests} requests of ours failed.")
    sent_share = stage.throughput_rps / (stage.planned / seconds)
    return {"cpu_us": stage.cpu_us, "sent_share": min(1.0, sent_share), "lag_p99_ms": stage.lag_p99_ms}


def _k6(program: str, rate_rps: float, seconds: float) -> Figures:
    """Of a short and a longer run, the difference: starting costs k6 as much as thousands of requests."""
    with _target() as url:
        short_s, short_sent = _k6_run(program, url, rate_rps, START_SECONDS)
        long_s, long_sent = _k6_run(program, url, rate_rps, START_SECONDS + seconds)
    sent = long_sent - short_sent
    return {"cpu_us": (long_s - short_s) / sent * 1e6, "sent_share": sent / (rate_rps * seconds)}


def _k6_run(program: str, url: str, rate_rps: float, seconds: float) -> tuple[float, int]:
    """Its CPU time and how many requests it sent. Raises LoadFailed."""
    with TemporaryDirectory(prefix="seatrial-") as folder:
        (bodies := Path(folder) / "bodies.json").write_text(json.dumps(BODIES))
        given = {"BODIES": bodies, "URL": f"{url}/predict", "RATE": rate_rps, "SECONDS": round(seconds)}
        options = [part for name, value in given.items() for part in ("-e", f"{name}={value}")]
        run = [program, "run", "--quiet", "--no-usage-report", *options, str(SCRIPT)]
        before = _children_seconds()
        ended = subprocess.run(
            ["taskset", "-c", str(GENERATOR_CORE), *run], capture_output=True, text=True, cwd=folder
        )
        took = _children_seconds() - before
    if ended.returncode:
        raise LoadFailed(f"k6 failed: {ended.stderr.strip()[-300:]}")
    told = json.loads(ended.stdout)
    if told["failed"]:
        raise LoadFailed(f"{told['failed']} of {told['sent']} requests of k6 failed.")
    return took, told["sent"]


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
