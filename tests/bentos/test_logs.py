"""Every line is one JSON object, whatever is logged, and a storm of events is one line with a count."""

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from bentos.watching.logs import JsonLines, Limited

PROJECT = Path(__file__).parents[2]
PROGRAM = """
import logging
from bentoml._internal.log import configure_server_logging
from bentos.watching.logs import install
from bentos.manifest import Manifest
from bentos.settings import Settings
from tests.bentos.tiny import CONTRACT
configure_server_logging()
install(Manifest("tiny", "3", "v3-0a", "fp32", "", CONTRACT), Settings())
logging.getLogger("bentoml._internal").info("from bentoml")
logging.getLogger("uvicorn.error").warning("from uvicorn")
logging.getLogger("bentos.service").info("ours", extra={"request_id": "r1"})
logging.getLogger("bentos.access").info("not asked for")
logging.getLogger("elsewhere").info("not asked for")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("bentos").exception("failed\\non two lines")
"""


@pytest.fixture
def lines():
    """A logger, and what it has written so far, parsed."""
    stream = io.StringIO()
    logger = logging.Logger("test")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines({"model": "tiny"}))
    logger.addHandler(handler)
    return logger, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_all_loggers_of_a_worker_write_json_lines_once():
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=PROJECT)
    assert found.returncode == 0, found.stderr
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert [(line["logger"], line["level"], line["message"]) for line in lines] == [
        ("bentoml._internal", "info", "from bentoml"),
        ("uvicorn.error", "warning", "from uvicorn"),
        ("bentos.service", "info", "ours"),
        ("bentos", "error", "failed\non two lines"),
    ]
    assert {line["release_id"] for line in lines} == {"v3-0a"}
    assert lines[2]["request_id"] == "r1"
    assert "ZeroDivisionError" in lines[3]["exception"]
    assert found.stderr == ""


def test_time_is_utc_and_iso(lines):
    logger, written = lines
    record = logging.LogRecord("test", logging.INFO, "", 0, "x", None, None)
    record.created = 1_795_255_200.25
    logger.handle(record)
    assert written()[0]["time"] == "2026-11-21T10:00:00.250000Z"


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({"a": 2**70}, id="a number beyond 64 bits"),
        pytest.param({"a": "\udc80"}, id="text that is no Unicode"),
        pytest.param({"a": Path("x"), "b": object()}, id="objects"),
        pytest.param({"a": float("nan")}, id="not a number"),
        pytest.param({"a": {1: {(2, 3): 4}}}, id="keys that are no strings"),
    ],
)
def test_anything_can_be_logged(lines, extra):
    logger, written = lines
    logger.error("a \udc80 %s", "b", extra=extra)
    assert written()[0]["model"] == "tiny"


def test_a_storm_is_one_line_a_second(lines):
    logger, written = lines
    now = [0.0]
    limited = Limited(logger, seconds=1, clock=lambda: now[0])
    for tick in range(2001):
        now[0] = tick / 1000
        limited.log(logging.WARNING, "shed", rows=tick)
    limited.log(logging.ERROR, "model failed", times=3)
    assert [(line["message"], line["count"], line.get("rows")) for line in written()] == [
        ("shed", 1, 0),
        ("shed", 1000, 1000),
        ("shed", 1000, 2000),
        ("model failed", 3, None),
    ]
