"""What guards `bentoml serve`: a cache, a prediction log and traces whose far ends fail, a circuit breaker,
and refusals where more is asked than can be answered in time. None of them costs a right answer."""

import asyncio
import json
import resource
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from bentos.http.front import Front
from bentos.http.messages import Answer
from bentos.manifest import Manifest, Plan
from bentos.release import Release
from bentos.settings import Settings
from tests.bentos import tiny
from tests.bentos.faulty import A_MILLISECOND, GOOD, LOST, NOT_A_NUMBER, RAISES, busy_packed, packed, score
from tests.bentos.serving import Line, Served, metric, post, serving
from tests.bentos.test_cache import Server as Redis
from tests.bentos.test_traces import PARENT, TRACE, Collector

needs_redis = pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")


def predict(served: Served, rows: list, **headers: str) -> httpx.Response:
    return httpx.post(f"{served.url}/predict", json={"rows": rows}, headers=headers, timeout=30)


def until(said) -> None:
    while not said():
        time.sleep(0.02)  # it is written by another process, which tells nobody


# What is seen of a service, and what it costs when nobody can take it.


@pytest.fixture(scope="module")
def collector():
    collector = Collector()
    collector.open.set()
    yield collector
    collector.shutdown()
    collector.server_close()


@pytest.fixture(scope="module")
def seen(tmp_path_factory, collector):
    folder = tmp_path_factory.mktemp("seen")
    packed(folder / "v7", Plan(breaker_failures=5, breaker_seconds=1.0))
    environment = {
        "SEATRIAL_ACCESS_LOG": "1",
        "SEATRIAL_CAPTURE_FOLDER": str(folder / "log"),
        "SEATRIAL_CAPTURE_SECONDS": "0.1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with serving(folder, folder / "v7", **environment) as served:
        yield served


@pytest.mark.e2e
def test_each_outcome_is_counted(seen: Served):
    def counted() -> dict[str, float]:
        return {name: metric(seen, "requests_total", way="predict", outcome=name) for name in outcomes}

    outcomes = ("ok", "client_error", "model_error")
    before = counted()
    statuses = [
        predict(seen, [row]).status_code for row in (GOOD, {}, RAISES, GOOD, NOT_A_NUMBER, LOST, GOOD)
    ]
    assert statuses == [200, 400, 502, 200, 502, 502, 200]
    after = counted()
    assert [after[name] - before[name] for name in outcomes] == [3, 1, 3]
    assert metric(seen, "request_seconds_count", way="predict") >= 7
    assert metric(seen, "queue_rows") == 0


@pytest.mark.e2e
def test_every_stage_of_a_request_is_timed(seen: Served):
    stages = ("parse", "queue", "assemble", "model", "respond")

    def counted() -> list[float]:
        return [metric(seen, "stage_seconds_count", stage=stage) for stage in stages]

    before = counted()
    assert [predict(seen, [GOOD]).status_code, predict(seen, [{}]).status_code] == [200, 400]
    assert [after - earlier for after, earlier in zip(counted(), before, strict=True)] == [1] * len(stages)


@pytest.mark.e2e
def test_the_breaker_opens_says_when_to_come_back_and_closes(seen: Served):
    assert metric(seen, "breaker_open") == 0
    for _ in range(5):
        assert predict(seen, [RAISES]).status_code == 502
    refused = predict(seen, [GOOD])
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json() == {"error": "the model has been failing and is given a rest"}
    assert metric(seen, "breaker_open") == 1
    assert metric(seen, "requests_total", way="predict", outcome="infrastructure") >= 1
    until(lambda: predict(seen, [GOOD]).status_code == 200)
    assert metric(seen, "breaker_open") == 0
    assert predict(seen, [GOOD]).json()[0]["score"] == pytest.approx(score(GOOD))


@pytest.mark.e2e
def test_log_lines_are_json_and_hold_no_bodies(seen: Served):
    answer = predict(seen, [{**GOOD, "value": 12345.5}], **{"x-request-id": "a-request"})
    assert answer.headers["x-request-id"] == "a-request"
    for body in (b'{"rows": [{"code": "a-secret"}]}', b"a-secret", b'{"a-secret": 1}'):
        assert httpx.post(f"{seen.url}/predict", content=body).status_code == 400
    assert predict(seen, [{**RAISES, "value": 54321.5}]).status_code == 502
    text = seen.log.read_text()
    assert not [secret for secret in ("a-secret", "12345.5", "54321.5") if secret in text]
    assert "idx=" not in text  # ONNX Runtime's own words
    lines = [json.loads(line) for line in text.splitlines()[1:]]  # the first is of the supervisor
    assert all({"time", "level", "message", "release_id"} <= line.keys() for line in lines)
    (answered,) = (line for line in lines if line.get("request_id") == "a-request")
    said = {name: answered[name] for name in ("logger", "way", "outcome", "rows", "model", "version")}
    assert said == {
        **{"logger": "bentos.access", "way": "predict", "outcome": "ok", "rows": 1},
        **{"model": "faulty", "version": "7"},
    }


@pytest.mark.e2e
def test_the_prediction_log_says_whose_requests_they_were(seen: Served):
    inputs = [
        {"name": name, "shape": [1], "datatype": kind, "data": [GOOD[name]]}
        for name, kind in (("code", "INT64"), ("value", "FP32"))
    ]
    headers = {"x-request-id": "by-tensors", "x-user-id": "ben"}
    infer = f"{seen.url}/v2/models/faulty/infer"
    assert httpx.post(infer, json={"inputs": inputs}, headers=headers).status_code == 200
    predict(seen, [GOOD], **{"x-request-id": "by-rows", "x-user-id": "ann"})
    predict(seen, [GOOD], **{"x-request-id": "by-nobody"})
    wanted = {"by-tensors": "ben", "by-rows": "ann", "by-nobody": None}

    def found() -> dict:
        rows = pq.read_table(seen.log.parent / "log", columns=["request_id", "user"]).to_pylist()
        return {row["request_id"]: row["user"] for row in rows if row["request_id"] in wanted}

    until(lambda: found().keys() == wanted.keys())
    assert found() == wanted


@pytest.mark.e2e
def test_spans_arrive_as_children_of_the_client_s(seen: Served, collector):
    predict(seen, [GOOD], traceparent=f"00-{TRACE}-{PARENT}-01")

    def ours() -> list:
        return [span for span in collector.spans() if span.trace_id.hex() == TRACE]

    until(lambda: len(ours()) == 3)
    assert {span.name for span in ours()} == {"predict", "queue", "model"}
    assert [span.parent_span_id.hex() for span in ours() if span.name == "predict"] == [PARENT]


@pytest.mark.e2e
def test_a_full_disk_under_the_log_costs_rows_of_the_log_only(seen: Served):
    """A limit on the size of files, set from outside, stands for the disk."""
    (worker,) = seen.workers()
    logged, dropped = (lambda name=name: metric(seen, "prediction_log_total", result=name) for name in LOG)
    predict(seen, [GOOD])
    until(lambda: logged() > 0)
    try:
        worker.rlimit(psutil.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        lost = dropped()
        while dropped() == lost:
            assert predict(seen, [GOOD] * 10).status_code == 200
    finally:
        worker.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    kept = logged()
    predict(seen, [GOOD])
    until(lambda: logged() > kept)


LOG = ("logged", "dropped")


# The cache.


@pytest.mark.e2e
@needs_redis
def test_a_redis_that_goes_away_costs_no_answer(tmp_path):
    redis = Redis(tmp_path)
    _, manifest = tiny.packed(tmp_path / "v3", plan=Plan(cache_seconds=600))
    manifest.save(tmp_path / "v3")
    try:
        with serving(tmp_path, tmp_path / "v3", SEATRIAL_REDIS_URL=redis.url) as served:
            first = predict(served, [tiny.ROW])
            assert metric(served, "cache_total", result="hit") == 0
            runs = metric(served, "batch_rows_count")
            again = predict(served, [tiny.ROW])
            assert again.json() == first.json()
            assert metric(served, "cache_total", result="hit") == 1
            assert metric(served, "batch_rows_count") == runs
            redis.kill()
            rows = [{**tiny.ROW, "hour": hour} for hour in range(24)]
            assert [predict(served, [row]).status_code for row in rows] == [200] * 24
            assert predict(served, [tiny.ROW]).json() == first.json()
            assert metric(served, "cache_total", result="error") >= 1
            assert metric(served, "requests_total", outcome="ok") == 27
    finally:
        redis.kill()


# More than can be answered in time.


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """Four rows in 20 ms, and no more than 100 ms to wait."""
    folder = tmp_path_factory.mktemp("busy")
    plan = Plan(max_batch_size=4, max_latency_ms=100, costs=((1, 0, 20.0), (4, 0, 20.0)), drain_seconds=0.1)
    busy_packed(folder / "v1", plan)
    with serving(folder, folder / "v1") as served:
        yield served


def turns(milliseconds: float, value: float = 1.0, **headers: str) -> bytes:
    row = {"turns": int(milliseconds * A_MILLISECOND), "value": value}
    return post("/predict", json.dumps({"rows": [row]}).encode(), **headers)


@pytest.mark.e2e
def test_a_request_of_many_rows_has_the_time_that_they_take(busy: Served):
    row = {"turns": 1, "value": 1.0}
    assert predict(busy, [row]).status_code == 200
    assert predict(busy, [row] * 40).status_code == 200  # ten runs, which are taken to last 200 ms


@pytest.mark.e2e
def test_overload_is_refused_with_a_time_to_come_back(busy: Served):
    def ask(client: int) -> list[Answer]:
        with Line(busy) as line:
            answers = []
            for _ in range(10):
                line.send(turns(20, value=client))
                answers.append(line.answer())
        return answers

    before = {name: metric(busy, "requests_total", way="predict", outcome=name) for name in ("ok", "shed")}
    with ThreadPoolExecutor(64) as pool:
        told = list(pool.map(ask, range(64)))
    answers = [(client, answer) for client, answers in enumerate(told) for answer in answers]
    assert {answer.status for _, answer in answers} <= {200, 429, 504}
    right = [answer for client, answer in answers if answer.body == b'[{"score":%.1f}]' % (2 * client)]
    refused = [answer for _, answer in answers if answer.status == 429]
    assert len(right) == sum(answer.status == 200 for _, answer in answers) > 0
    assert refused
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert metric(busy, "requests_total", way="predict", outcome="ok") - before["ok"] == len(right)
    shed = metric(busy, "requests_total", way="predict", outcome="shed") - before["shed"]
    assert shed == len(answers) - len(right)


@pytest.mark.e2e
def test_a_deadline_that_cannot_be_met_is_refused_before_the_model_runs(busy: Served):
    runs = metric(busy, "batch_rows_count")
    with Line(busy) as long, Line(busy) as short:
        long.send(turns(400, x_timeout_ms="60000"))
        until(lambda: metric(busy, "queue_wait_seconds_count") > runs)  # it is in the model
        short.send(turns(1, x_timeout_ms="3"))
        refused = short.answer()
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert b"allowed are 3 ms" in refused.body
        assert long.answer().status == 200
    assert metric(busy, "batch_rows_count") == runs + 1


# The fallback, in process.


def said(folder: Path, scenario) -> list[Answer]:
    """What a release answers in a scenario, which gets a function that asks."""
    answers: list[Answer] = []

    async def live() -> None:
        release = Release(folder, Manifest.load(folder), Settings())
        front = Front(release, {})
        handler = front.handler(b"POST", b"/predict", b"")
        assert handler is not None

        async def ask(*rows: dict) -> Answer:
            """Each row is a request; all come at once. Returns the answer to the first."""
            come: list[list[Answer]] = [[] for _ in rows]
            for row, back in zip(rows, come, strict=True):
                front.call(handler, {}, json.dumps({"rows": [row]}).encode(), back.append)
            await release.batcher.drain()
            answers.extend(answer for back in come for answer in back)
            return come[0][0]

        await release.start()
        await scenario(ask)
        await release.close()

    asyncio.run(live())
    return answers


def test_a_declared_default_stands_in_for_a_failing_model(tmp_path):
    plan = Plan(breaker_failures=3, breaker_seconds=600, fallback="default", default_answer={"score": 0.5})
    packed(tmp_path, plan)

    async def scenario(ask):
        for row in (RAISES, RAISES, RAISES, GOOD):
            await ask(row)

    *failed, stand_in = said(tmp_path, scenario)
    assert [answer.status for answer in failed] == [502] * 3
    assert (stand_in.status, stand_in.chunks) == (200, (b'[{"score":0.5}]',))
    assert (b"x-fallback", b"default") in stand_in.headers


def test_an_earlier_answer_stands_in_for_a_failing_model(tmp_path):
    plan = Plan(breaker_failures=3, breaker_seconds=600, fallback="cached", cache_seconds=1e-9)
    packed(tmp_path, plan)

    async def scenario(ask):
        for row in (GOOD, RAISES, RAISES, RAISES, GOOD, {**GOOD, "code": 5}):
            await ask(row)

    answer, *failed, again, unknown = said(tmp_path, scenario)
    assert [each.status for each in failed] == [502] * 3
    assert (again.status, again.chunks) == (200, answer.chunks)
    assert answer.headers == () and (b"x-fallback", b"cached") in again.headers
    assert unknown.status == 503


def test_poisonous_rows_beside_good_ones_do_not_open_the_breaker(tmp_path):
    packed(tmp_path, Plan(breaker_failures=3, breaker_seconds=600, max_batch_size=8))

    async def scenario(ask):
        for _ in range(10):
            await ask(RAISES, GOOD, GOOD)

    assert [answer.status for answer in said(tmp_path, scenario)] == [502, 200, 200] * 10


def test_what_breaks_behind_an_answer_does_not_keep_it_back(tmp_path, monkeypatch):
    packed(tmp_path)
    monkeypatch.setattr("bentos.watching.metrics.Metrics.request", lambda *_: 1 / 0)

    async def scenario(ask):
        await ask(GOOD)

    assert [answer.status for answer in said(tmp_path, scenario)] == [200]


def test_many_mistakes_are_refused_as_fast_as_one(tmp_path):
    """A mistake takes hundreds of times as long to tell as to make: they are told up to a bound."""
    packed(tmp_path, Plan(max_request_rows=1000))
    bodies = {
        b'{"rows":[' + b",".join([b"1"] * 900) + b"]}": 400,
        b'{"rows":[' + b",".join([b"{}"] * 900) + b"]}": 400,
        b'{"rows":[' + b",".join([b"1"] * 5000) + b"]}": 413,
        b'{"rows":[{' + b",".join(b'"%d":1' % at for at in range(5000)) + b"}]}": 400,
        b"{" + b",".join(b'"%d":1' % at for at in range(5000)) + b"}": 400,
        b'{"rows":[{"' + b"a" * 100_000 + b'":1}]}': 400,
    }
    answers: list[Answer] = []
    front = Front(Release(tmp_path, Manifest.load(tmp_path), Settings()), {})
    handler = front.handler(b"POST", b"/predict", b"")
    assert handler is not None
    for body in bodies:
        front.call(handler, {}, body, answers.append)
    assert [answer.status for answer in answers] == list(bodies.values())
    assert max(len(answer.chunks[0]) for answer in answers) < 2000
