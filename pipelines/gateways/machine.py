"""The machine that we run on: what figures that were measured here hold for."""

import os
import platform
from contextlib import suppress
from pathlib import Path

CPUINFO, CPU_QUOTA = Path("/proc/cpuinfo"), Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """How many cores this process may use: those it is bound to, at most the quota of its container."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no quota, no cgroups, or "max"
        quota, period = map(int, CPU_QUOTA.read_text().split())
        return max(1, min(bound, quota // period))
    return bound


def processor() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in CPUINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
