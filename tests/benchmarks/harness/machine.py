"""The machine: which core is whose, and what the figures were measured on."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVER_CORE, GENERATOR_CORE = 0, 1
ISA = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx")


def cache() -> Path:
    """Where environments and models of benchmarks are kept between runs."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "seatrial" / "benchmarks"


def facts() -> dict:
    """What one must know to read a figure. The load is that of the minute before."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "cpu": told.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "isa": sorted(flag for flag in told.get("flags", "").split() if flag.startswith(ISA)),
        "load_1_min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "measured": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


@contextmanager
def on_the_generators_core() -> Iterator[None]:
    """This thread, and what it starts meanwhile, runs apart from the server."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {GENERATOR_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
