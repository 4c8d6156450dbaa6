"""The machine, and the quota of a container."""

import os

import pytest

from pipelines.gateways import machine


def test_this_machine_has_cores_and_a_processor():
    assert 1 <= machine.cores() <= (os.cpu_count() or 1)
    assert machine.processor()


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1)])
def test_a_container_s_quota_is_respected(tmp_path, monkeypatch, quota, cores):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(machine, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert machine.cores() == cores
