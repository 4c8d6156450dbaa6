"""Counts of several real processes add up exactly, whoever has died and whatever lies in the folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, multiprocess
from prometheus_client.parser import text_string_to_metric_families

from bentos.watching.metrics import MARK, SLOTS, Metrics

PROJECT = Path(__file__).parents[2]
SIZE_BYTES = (SLOTS + 1) * 8
WORKER = """
import sys
from pathlib import Path
from bentos.watching.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
for _ in range(10_000):
    metrics.request("predict", "ok", 0.0003)
metrics.queue(7)
print("counted", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def workers(tmp_path):
    """Starts a worker that counts 10,000 requests, leaves 7 rows in its queue, and lives on."""
    started = []

    def start() -> subprocess.Popen:
        command = [sys.executable, "-c", WORKER, str(tmp_path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(process := subprocess.Popen(command, cwd=PROJECT, **pipes))
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def counted(process: subprocess.Popen) -> subprocess.Popen:
    assert process.stdout and process.stdout.readline() == "counted\n"
    return process


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """{(name, label values in the order of their names…): value}"""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name.removeprefix("seatrial_"), *(sample.labels[label] for label in sorted(sample.labels))): (
            sample.value
        )
        for family in families
        for sample in family.samples
    }


def test_every_method_has_its_series():
    metrics = Metrics(None, {"model": "tiny", "version": "3", "release_id": "v3-0a", "rung": "fp32"})
    metrics.request("grpc", "shed", 0.02)
    metrics.waited(0.00005)
    metrics.batch(3, 2, 0.001, 100.0)
    metrics.stage("parse", 0.0001)
    metrics.queue(5)
    metrics.breaker(True)
    metrics.cache("stale")
    metrics.model_failed("not_finite")
    metrics.logged(4)
    metrics.dropped(1)
    found = samples(metrics)
    assert {key: value for key, value in found.items() if value and not key[0].endswith("bucket")} == {
        ("requests_total", "shed", "grpc"): 1,
        ("request_seconds_count", "grpc"): 1,
        ("request_seconds_sum", "grpc"): 0.02,
        ("stage_seconds_count", "parse"): 1,
        ("stage_seconds_sum", "parse"): 0.0001,
        ("stage_seconds_count", "queue"): 1,
        ("stage_seconds_sum", "queue"): 0.00005,
        ("stage_seconds_count", "assemble"): 1,
        ("stage_seconds_sum", "assemble"): 0.001,
        ("stage_seconds_count", "model"): 1,
        ("stage_seconds_sum", "model"): 100,
        ("queue_wait_seconds_count",): 1,
        ("queue_wait_seconds_sum",): 0.00005,
        ("model_seconds_count",): 1,
        ("model_seconds_sum",): 100,
        ("batch_rows_count",): 1,
        ("batch_rows_sum",): 3,
        ("batch_requests_count",): 1,
        ("batch_requests_sum",): 2,
        ("queue_rows",): 5,
        ("breaker_open",): 1,
        ("cache_total", "stale"): 1,
        ("prediction_log_total", "logged"): 4,
        ("prediction_log_total", "dropped"): 1,
        ("model_failures_total", "not_finite"): 1,
        ("build_info", "tiny", "v3-0a", "fp32", "3"): 1,
    }


def test_buckets_hold_their_bounds():
    metrics = Metrics()
    metrics.waited(0.00005)
    metrics.waited(0.000051)
    metrics.waited(31)
    found = samples(metrics)
    assert found["queue_wait_seconds_bucket", "5e-05"] == 1
    assert found["queue_wait_seconds_bucket", "0.0001"] == 2
    assert found["queue_wait_seconds_bucket", "30.0"] == 2
    assert found["queue_wait_seconds_bucket", "+Inf"] == found["queue_wait_seconds_count",] == 3


def test_workers_add_up_exactly_also_when_one_was_killed(tmp_path, workers):
    killed, *_ = map(counted, [workers() for _ in range(3)])
    metrics = Metrics(tmp_path)
    metrics.queue(1)
    assert samples(metrics)["queue_rows",] == 22
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    found = samples(metrics)
    assert found["requests_total", "ok", "predict"] == found["request_seconds_count", "predict"] == 30_000
    assert found["queue_rows",] == 15


def test_a_new_worker_goes_on_with_the_file_of_a_dead_one(tmp_path, workers):
    for _ in range(2):
        process = counted(workers())
        process.communicate("\n")
    assert len([*tmp_path.iterdir()]) == 1
    metrics = Metrics(tmp_path)
    assert samples(metrics)["requests_total", "ok", "predict"] == 20_000
    assert samples(metrics)["queue_rows",] == 0
    assert len([*tmp_path.iterdir()]) == 1


def test_files_that_are_not_whole_or_not_ours_are_left_out(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.cache("hit")
    (tmp_path / "seatrial-7.counts").write_bytes(b"")
    (tmp_path / "seatrial-8.counts").write_bytes(b"\x01" * (SIZE_BYTES - 3))
    (tmp_path / "seatrial-9.counts").write_bytes(b"\x01" * SIZE_BYTES)
    (tmp_path / "seatrial-10.counts").mkdir()
    assert samples(metrics)["cache_total", "hit"] == 1


def test_the_file_of_another_layout_is_begun_anew(tmp_path):
    (tmp_path / "seatrial-0.counts").write_bytes(b"\x01" * (SIZE_BYTES + 80))
    metrics = Metrics(tmp_path)
    assert sum(value for key, value in samples(metrics).items() if key[0] != "build_info") == 0
    assert memoryview((tmp_path / "seatrial-0.counts").read_bytes()).cast("d")[-1] == MARK


def test_a_folder_that_cannot_be_used_costs_the_other_workers_only(tmp_path, caplog):
    metrics = Metrics(tmp_path / "missing")
    metrics.cache("hit")
    assert samples(metrics)["cache_total", "hit"] == 1
    assert "this worker alone" in caplog.text


def test_prometheus_client_overlooks_the_files(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.cache("hit")
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(tmp_path))
    assert [*registry.collect()] == []
