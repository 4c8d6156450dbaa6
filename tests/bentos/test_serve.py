"""`bentoml serve` of a release, and what clients may do to it: nobody else notices."""

import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from bentos.manifest import Plan
from tests.bentos import faulty
from tests.bentos.faulty import GOOD, LOST, NOT_A_NUMBER, RAISES, score
from tests.bentos.serving import Served, end, serving, start

pytestmark = pytest.mark.e2e

PLAN = Plan(max_batch_size=32, max_body_bytes=2**20, max_request_rows=100, drain_seconds=1.0)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    faulty.packed(folder / "v7", PLAN)
    with serving(folder, folder / "v7") as served:
        yield served


def predict(served: Served, rows: list, **headers: str) -> httpx.Response:
    return httpx.post(f"{served.url}/predict", json={"rows": rows}, headers=headers, timeout=30)


def metric(served: Served, name: str, **labels: str) -> float:
    from prometheus_client.parser import text_string_to_metric_families

    text = httpx.get(f"{served.url}/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"seatrial_{name}" and labels.items() <= sample.labels.items()
    )


def raw(served: Served, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=30)
    connection.sendall(sent)
    return connection


def answer_of(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_answers(served):
    answer = predict(served, [GOOD, {"code": 0, "value": 1.0}])
    assert answer.status_code == 200
    assert [row["score"] for row in answer.json()] == pytest.approx([score(GOOD), 0.0])
    assert answer.headers["x-model-version"] == "7"
    assert answer.headers["x-release-id"] == "v7-faulty"


@pytest.mark.parametrize(
    ("poison", "reason"), [(RAISES, "raised"), (NOT_A_NUMBER, "not_finite"), (LOST, "wrong_rows")]
)
def test_a_poisonous_row_among_32_hurts_nobody_else(served, poison, reason):
    before = metric(served, "model_failures_total", reason=reason)
    rows = [{"code": at % 10, "value": 1.0 + at} for at in range(32)]
    rows[17] = poison
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda row: predict(served, [row]), rows))
    assert [answer.status_code for answer in answers] == [200] * 17 + [502] + [200] * 14
    for row, answer in zip(rows, answers, strict=True):
        if row is not poison:
            assert answer.json()[0]["score"] == pytest.approx(score(row), abs=1e-6)
    assert answers[17].json() == {"error": "the model could not answer this request"}
    assert metric(served, "model_failures_total", reason=reason) > before
    assert metric(served, "requests_total", way="predict", outcome="model_error") > 0


@pytest.mark.parametrize(
    ("content", "status"),
    [
        pytest.param(b"", 400, id="nothing"),
        pytest.param(b"{", 400, id="half an object"),
        pytest.param(b"\xff\xfe", 400, id="no text"),
        pytest.param(b"[" * 100_000, 400, id="deep nesting"),
        pytest.param(b'{"rows": [{"code": 1e999, "value": 1}]}', 400, id="infinite"),
        pytest.param(b'{"rows": [{"code": 9999999999999999999999, "value": 1}]}', 400, id="a huge integer"),
        pytest.param(b'{"rows": [{"code": 1, "value": Infinity}]}', 400, id="Infinity"),
        pytest.param(b'{"rows": [{"code": 1, "value": 1e39}]}', 400, id="too large for float32"),
        pytest.param(b'{"rows": [{"code": "1", "value": 1}]}', 400, id="a string for a number"),
        pytest.param(b'{"rows": [{"code": 1}]}', 400, id="a missing field"),
        pytest.param(b'{"rows": [[1, 2]]}', 400, id="lists for objects"),
        pytest.param(b'{"rows": {}}', 400, id="an object for a list"),
        pytest.param(b'{"rows": []}', 400, id="no rows"),
        pytest.param(b'{"rows": [' + b",".join([b'{"code":1,"value":1}'] * 101) + b"]}", 413, id="many rows"),
        pytest.param(b" " * (2**20 + 1), 413, id="a large body"),
    ],
)
def test_bad_bodies_are_refused_in_a_sentence(served, content, status):
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{served.url}/predict", content=content, headers=headers, timeout=30)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert not any(word in answer.text for word in ("Traceback", "bentos", "/site-packages", "pydantic"))


def test_a_body_of_100_megabytes_is_refused_before_it_is_read(served):
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 104857600\r\n\r\n"
    answer = answer_of(raw(served, head))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


def test_an_endless_chunked_body_is_cut_off(served):
    connection = raw(served, b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with pytest.raises(OSError):  # the server has closed
        for _ in range(10_000):
            connection.sendall(chunk)


def test_a_body_that_unpacks_to_too_much_is_refused(served):
    import gzip

    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    bomb = gzip.compress(b" " * 50_000_000)
    answer = httpx.post(f"{served.url}/predict", content=bomb, headers=headers, timeout=30)
    assert answer.status_code == 413


def test_endless_headers_are_refused(served):
    answer = answer_of(raw(served, b"GET /livez HTTP/1.1\r\n" + b"x-filler: 0123456789\r\n" * 5_000))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_pipelined_requests_are_answered_in_their_order(served):
    def request(row: dict) -> bytes:
        body = json.dumps({"rows": [row]}).encode()
        return b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    rows = [{"code": at, "value": 1.0} for at in range(10)]
    last = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = answer_of(raw(served, b"".join(map(request, rows)) + last))
    scores = [float(part.split(b"}")[0]) for part in answer.split(b'"score":')[1:]]
    assert scores == [score(row) for row in rows]
    assert answer.count(b"HTTP/1.1 200 ") == 11


def test_other_ways_of_http_work(served):
    assert httpx.get(f"{served.url}/livez").status_code == 200
    assert httpx.get(f"{served.url}/docs.json").status_code == 200
    assert httpx.get(f"{served.url}/predict").status_code == 405
    assert httpx.get(f"{served.url}/nothing").status_code == 404
    expecting = predict(served, [GOOD], expect="100-continue")
    assert expecting.status_code == 200
    closing = predict(served, [GOOD], connection="close")
    assert closing.headers["connection"] == "close"
    pickle = httpx.post(
        f"{served.url}/predict",
        content=b"\x80\x04N.",
        headers={"content-type": "application/vnd.bentoml+pickle"},
    )
    assert pickle.status_code == 415
    preflight = httpx.options(f"{served.url}/predict", headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in preflight.headers


def test_bentoml_s_own_client_works(served):
    import bentoml

    with bentoml.SyncHTTPClient(served.url) as client:
        assert client.predict(rows=[GOOD])[0]["score"] == pytest.approx(score(GOOD))


def test_a_client_that_leaves_costs_nobody_an_answer(served):
    body = json.dumps({"rows": [GOOD]}).encode()
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    for _ in range(50):
        raw(served, head + body).close()
        raw(served, head + body[:5]).close()
    assert predict(served, [GOOD]).status_code == 200


def test_a_deadline_that_cannot_be_met_is_refused_at_once(served):
    assert predict(served, [GOOD], **{"x-timeout-ms": "soon"}).status_code == 400
    assert predict(served, [GOOD], **{"x-timeout-ms": "0"}).status_code == 400
    assert predict(served, [GOOD], **{"x-timeout-ms": "5000"}).status_code == 200


def test_sigterm_says_unready_first_and_loses_no_request(tmp_path):
    faulty.packed(tmp_path / "v7", PLAN)
    with serving(tmp_path, tmp_path / "v7") as served:
        (worker,) = served.workers()
        statuses, stop = [], threading.Event()

        def ask() -> None:
            with httpx.Client() as client:
                while not stop.is_set():
                    statuses.append(client.post(f"{served.url}/predict", json={"rows": [GOOD]}).status_code)

        asker = threading.Thread(target=ask)
        asker.start()
        worker.send_signal(signal.SIGTERM)
        while served.is_ready():
            pass
        unready_at = len(statuses)
        while len(statuses) < unready_at + 10:  # it still answers
            time.sleep(0.01)
        stop.set()
        asker.join()
        assert set(statuses) == {200}


def test_a_worker_that_was_killed_is_replaced(tmp_path):
    faulty.packed(tmp_path / "v7", Plan(workers=2))
    with serving(tmp_path, tmp_path / "v7") as served:
        first = {worker.pid for worker in served.workers()}
        assert len(first) == 2
        os.kill(min(first), signal.SIGKILL)
        while len({worker.pid for worker in served.workers()} - first) < 1:
            time.sleep(0.1)  # BentoML's supervisor tells nobody
        served.wait_until_ready()
        assert {predict(served, [GOOD]).status_code for _ in range(20)} == {200}


def test_a_damaged_model_is_refused_at_start(tmp_path):
    faulty.packed(tmp_path / "v7", PLAN)
    model = tmp_path / "v7" / "model.onnx"
    damaged = bytearray(model.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    model.write_bytes(damaged)
    served = start(tmp_path, tmp_path / "v7")
    try:
        while "the manifest says" not in served.log.read_text():
            assert served.process.poll() is None or "the manifest says" in served.log.read_text()
            time.sleep(0.1)  # what a process writes to its log is announced nowhere
        assert not served.is_ready()
    finally:
        end(served)
