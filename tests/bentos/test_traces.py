"""Spans arrive at a real collector, as the client's children; without one, nothing is even imported."""

import asyncio
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bentos.manifest import Manifest
from bentos.settings import Settings
from bentos.watching import traces
from bentos.watching.traces import tracer
from bentos.work import Job
from tests.bentos.tiny import CONTRACT

PROJECT = Path(__file__).parents[2]
MANIFEST = Manifest("tiny", "3", "v3-0a", "fp32", "", CONTRACT)
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OFF = """
import sys
from bentos.settings import Settings
from bentos.watching.traces import tracer
assert tracer(None, Settings()) is None
assert not any(name.startswith("opentelemetry") for name in sys.modules)
"""


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP; waits for `open` before it answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.open = threading.Event()
        self.received = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def spans(self) -> list:
        traced = [each for got in self.received for each in got.resource_spans]
        return [span for each in traced for scope in each.scope_spans for span in scope.spans]


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.open.wait(60)
        self.server.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector(monkeypatch):
    collector = Collector()
    collector.open.set()
    address = f"http://127.0.0.1:{collector.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    yield collector
    collector.open.set()
    collector.shutdown()
    collector.server_close()


def job(**fields) -> Job:
    now = time.monotonic()
    times = {"deadline": now, "arrived": now - 1, "started": now - 0.75, "finished": now - 0.25}
    return Job(
        **{"done": lambda job: None, "size": 2, "request_id": "r1", "way": "predict", **times, **fields}
    )


def resource_of(collector: Collector) -> dict:
    return attributes(collector.received[0].resource_spans[0].resource)


def started() -> traces.Tracer:
    made = tracer(MANIFEST, Settings.from_environment())
    assert made
    return made


def attributes(span) -> dict:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_a_request_is_one_server_span_with_its_stages(collector):
    made = started()
    headers = {b"traceparent": f"00-{TRACE}-{PARENT}-01".encode(), b"tracestate": b"a=b", b"x": b"\xff"}
    before = time.time_ns()
    made.finished(job(way="v2_json", trace=headers), "ok")
    asyncio.run(made.close())
    spans = {span.name: span for span in collector.spans()}
    server = spans["v2_json"]
    assert server.trace_id.hex() == TRACE and server.parent_span_id.hex() == PARENT
    assert server.kind == server.SPAN_KIND_SERVER and server.status.code == server.status.STATUS_CODE_UNSET
    assert server.start_time_unix_nano < before <= server.end_time_unix_nano
    assert attributes(server) == {
        "seatrial.model": "tiny",
        "seatrial.version": "3",
        "seatrial.release_id": "v3-0a",
        "seatrial.request_id": "r1",
        "seatrial.outcome": "ok",
        "seatrial.rows": 2,
    }
    lasted = {
        name: (each.end_time_unix_nano - each.start_time_unix_nano) / 1e9 for name, each in spans.items()
    }
    assert lasted["queue"] == pytest.approx(0.25, abs=1e-6) and lasted["model"] == pytest.approx(
        0.5, abs=1e-6
    )
    assert spans["queue"].start_time_unix_nano == server.start_time_unix_nano
    assert spans["queue"].end_time_unix_nano == spans["model"].start_time_unix_nano
    assert {spans[name].parent_span_id for name in ("queue", "model")} == {server.span_id}
    resource = resource_of(collector)
    assert (resource["service.name"], resource["service.version"]) == ("tiny", "3")


def test_a_request_that_met_no_model_is_a_failed_span_of_its_own_trace(collector):
    made = started()
    made.finished(job(started=0.0, finished=0.0, trace={b"traceparent": b"nonsense"}), "shed")
    asyncio.run(made.close())
    (span,) = collector.spans()
    assert span.parent_span_id == b"" and span.status.code == span.status.STATUS_CODE_ERROR


def test_what_the_caller_does_not_sample_is_not_sent(collector):
    made = started()
    made.finished(job(trace={b"traceparent": f"00-{TRACE}-{PARENT}-00".encode()}), "ok")
    asyncio.run(made.close())
    assert collector.spans() == []


def test_the_name_of_the_service_can_be_set(collector, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "churn-eu")
    made = started()
    made.finished(job(), "ok")
    asyncio.run(made.close())
    resource = resource_of(collector)
    assert resource["service.name"] == "churn-eu"


def test_the_end_of_the_service_does_not_wait_for_a_collector_that_hangs(collector, monkeypatch):
    monkeypatch.setattr(traces, "FLUSH_SECONDS", 0.1)
    collector.open.clear()
    made = started()
    for _ in range(5000):
        made.finished(job(), "ok")
    asyncio.run(made.close())
    assert collector.received == []


def test_nothing_is_imported_where_nothing_is_traced():
    found = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True, cwd=PROJECT)
    assert found.returncode == 0, found.stderr
