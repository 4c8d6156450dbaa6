"""What the whole path costs: how much is orchestration, what a second run saves, how much memory it takes.

Figures go to results.json beside this file. Seconds depend on the machine; the ratios are what is claimed.
"""

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.gateways.services import free_port

PROJECT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results.json")
SEATRIAL = [sys.executable, "-c", "from pipelines.cli import main; main()"]
MAX_ORCHESTRATION_SHARE = 0.15
MAX_PEAK_GIB = 3


@pytest.fixture
def env(tmp_path):
    """A fresh installation, but for the environment of the service, which is part of installing."""
    installed = PROJECT / "dagster_home" / "environments"
    if installed.is_dir():
        (tmp_path / "environments").symlink_to(installed)
    env = {**os.environ, "SEATRIAL_HOME": str(tmp_path), "SEATRIAL_PORT": str(free_port())}
    yield env
    subprocess.run([*SEATRIAL, "down"], env=env, check=True)


def _seconds(argv: list[str], env: dict[str, str]) -> tuple[float, str]:
    started = time.perf_counter()
    ended = subprocess.run(argv, env=env, cwd=PROJECT, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, ended.stdout


def test_the_whole_path(env):
    first, told = _seconds([*SEATRIAL, "demo"], env)
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    second, _ = _seconds([*SEATRIAL, "demo"], env)
    python, _ = _seconds([sys.executable, "-c", "pass"], env)
    load_definitions, _ = _seconds(
        [sys.executable, "-c", "from pipelines.definitions import defs; defs()"], env
    )
    parts = {name: float(s) for name, s in re.findall(r"([a-z][a-z ]+) (\d+\.\d) s", told.split("Took")[1])}
    share = parts["orchestration"] / first
    RESULTS.write_text(
        json.dumps(
            {
                "machine": {"cores": psutil.cpu_count(), "load_1_min": round(os.getloadavg()[0], 2)},
                "first_demo_seconds": round(first, 1),
                "second_demo_seconds": round(second, 1),
                "second_to_first": round(second / first, 3),
                "seconds_by_work": parts,
                "orchestration_share": round(share, 3),
                "peak_memory_gib": round(peak_gib, 2),
                "load_definitions_seconds": round(load_definitions - python, 2),
            },
            indent=2,
        )
        + "\n"
    )
    assert peak_gib < MAX_PEAK_GIB
    assert second < first / 4
    assert share < MAX_ORCHESTRATION_SHARE
