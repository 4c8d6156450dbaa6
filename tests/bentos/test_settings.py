"""The environment becomes settings, and a value that cannot be used ends in one sentence that names it."""

from dataclasses import asdict
from pathlib import Path

import pytest

import bentos.settings
from bentos.settings import SettingInvalid, Settings


def test_nothing_set_is_the_default():
    assert Settings.from_environment({}) == Settings()
    assert Settings.from_environment({"SEATRIAL_GRPC_PORT": "", "SEATRIAL_REDIS_URL": ""}) == Settings()


def test_everything_set():
    given = {
        "SEATRIAL_GRPC_PORT": "8081",
        "SEATRIAL_READ_SECONDS": "7.5",
        "SEATRIAL_REDIS_URL": "redis://:secret@localhost:6379/1",
        "SEATRIAL_CAPTURE_FOLDER": "log",
        "SEATRIAL_CAPTURE_MEGABYTES": "0.5",
        "SEATRIAL_CAPTURE_SECONDS": "5",
        "SEATRIAL_CAPTURE_TOTAL_MEGABYTES": "2",
        "SEATRIAL_ACCESS_LOG": "True",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
        "PROMETHEUS_MULTIPROC_DIR": "counts",
    }
    assert asdict(Settings.from_environment(given)) == {
        "grpc_port": 8081,
        "read_seconds": 7.5,
        "redis_url": "redis://:secret@localhost:6379/1",
        "capture_folder": Path("log"),
        "capture_segment_bytes": 2**19,
        "capture_segment_seconds": 5,
        "capture_total_bytes": 2**21,
        "access_log": True,
        "traces": True,
        "metrics_folder": Path("counts"),
    }
    assert all(name in (bentos.settings.__doc__ or "") for name in given)


@pytest.mark.parametrize(
    ("given", "traced"),
    [
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, False),
    ],
)
def test_when_requests_are_traced(given, traced):
    assert Settings.from_environment(given).traces is traced


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEATRIAL_GRPC_PORT", "70000"),
        ("SEATRIAL_GRPC_PORT", "-1"),
        ("SEATRIAL_GRPC_PORT", "³"),
        ("SEATRIAL_REDIS_URL", "localhost:6379"),
        ("SEATRIAL_REDIS_URL", "redis://:hunter2@localhost:port"),
        ("SEATRIAL_CAPTURE_MEGABYTES", "0"),
        ("SEATRIAL_CAPTURE_SECONDS", "soon"),
        ("SEATRIAL_CAPTURE_TOTAL_MEGABYTES", "inf"),
        ("SEATRIAL_ACCESS_LOG", "maybe"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"),
        ("OTEL_TRACES_EXPORTER", "jaeger"),
    ],
)
def test_a_bad_value_is_named_and_not_repeated(name, value):
    with pytest.raises(SettingInvalid, match=rf"^{name} must be .*\.$") as refused:
        Settings.from_environment({name: value})
    assert value not in str(refused.value) or len(value) < 3
