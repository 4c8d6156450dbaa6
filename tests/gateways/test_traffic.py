"""The open loop against real servers: healthy, stalling, overloaded, dead, of another mind."""

import asyncio
import http.client
import resource
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.errors import ContractBroken, LoadTestInvalid, ServiceFailed, SettingsInvalid
from pipelines.core.latency import Offer, percentile
from pipelines.gateways.payloads import Payloads
from pipelines.gateways.traffic import Moment, OpenLoop, line
from tests.fakes.traffic import FakeTraffic
from tests.gateways.http_server import answer, reply, served

NOBODY = "http://127.0.0.1:1"
COLUMNS = ["stage", "intended_s", "sent_s", "latency_ms", "status"]


def bodies(*given: bytes) -> Payloads:
    return Payloads("json", "/predict", given, [(("content-type", "application/json"),)] * len(given))


def status(result) -> list[int]:
    return result.table()["status"].to_pylist()


@pytest.mark.e2e
def test_every_request_is_sent_once_in_turn_and_answered():
    received, moments = [], []

    async def handler(head: bytes, body: bytes) -> bytes:
        received.append((head.splitlines()[0], b"content-type: application/json" in head, body))
        return await answer(head, body)

    offers = [Offer("one", 50, 1), Offer("two", 100, 1, arrivals="constant")]
    with served(handler) as server:
        result = OpenLoop().run(server.url, bodies(b"1", b"2"), offers, 3, moments.append)
    planned = [len(offers[0].times(3)), 100]
    assert [(stage.name, stage.planned, stage.requests, stage.errors) for stage in result.stages] == [
        ("one", planned[0], planned[0], 0),
        ("two", planned[1], planned[1], 0),
    ]
    assert {(line, typed) for line, typed, _ in received} == {(b"POST /predict HTTP/1.1", True)}
    sent = [body for *_, body in received]
    assert len(sent) == sum(planned) and abs(sent.count(b"1") - sent.count(b"2")) <= 1
    assert result.table().column_names == COLUMNS and set(status(result)) == {200}
    assert np.array_equal(result.samples[0].intended_s, offers[0].times(3))
    for samples, stage in zip(result.samples, result.stages, strict=True):
        assert (samples.sent_s >= samples.intended_s).all() and (samples.latency_ms > 0).all()
        assert stage.cpu_us > 0
    ends = [moment for moment in moments if moment.sent == moment.planned]
    assert {(end.stage, end.sent) for end in ends} == {("one", planned[0]), ("two", planned[1])}
    assert [moment.stage for moment in moments][-1] == "two" and moments[-1].errors == 0


@pytest.mark.e2e
def test_a_stall_counts_for_all_who_came_during_it():
    """The server answers at once, but is stuck for the last second of every four. Who waits for an answer
    before sending on meets one stall with one request in thousands; the truth is a p99 of nearly a second."""
    period_s, stall_s, began = 4.0, 1.0, 0.0

    async def handler(head: bytes, body: bytes) -> bytes:
        nonlocal began
        began = began or time.monotonic()
        phase_s = (time.monotonic() - began) % period_s
        await asyncio.sleep(period_s - phase_s if phase_s >= period_s - stall_s else 0)
        return await answer(head, body)

    offer = Offer("peak", 100, 2 * period_s)
    with served(handler) as server:
        stage = OpenLoop().run(server.url, bodies(b"{}"), [offer], seed=1).stages[0]
        naive_ms = closed_loop(server.url, period_s)
    times = offer.times(1)
    phase_s = (times - times[0]) % period_s
    true_p99_ms = percentile(np.where(phase_s >= period_s - stall_s, period_s - phase_s, 0) * 1000, 99)
    assert stage.p99_ms == pytest.approx(true_p99_ms, rel=0.05) and stage.errors == 0
    assert naive_ms.max() > 500 and percentile(naive_ms, 99) < 0.05 * true_p99_ms


def closed_loop(url: str, seconds: float) -> np.ndarray:
    """The latencies of one client that waits for its answers, and measures from when it sends, in ms."""
    connection, latency_ms = http.client.HTTPConnection(url.removeprefix("http://")), []
    until = time.perf_counter() + seconds
    while (start := time.perf_counter()) < until:
        connection.request("POST", "/predict", b"{}")
        connection.getresponse().read()
        latency_ms.append((time.perf_counter() - start) * 1000)
    connection.close()
    return np.array(latency_ms)


@pytest.mark.e2e
@pytest.mark.parametrize("refusal", [429, 503])
def test_refusals_are_errors_that_are_counted_apart(refusal):
    async def overloaded(head: bytes, body: bytes) -> bytes:
        return reply(refusal)

    with served(overloaded) as server:
        stage = OpenLoop().run(server.url, bodies(b"{}"), [Offer("peak", 50, 1)], seed=0).stages[0]
    assert stage.error_rate == 1 and stage.refused == stage.errors == stage.planned
    assert stage.refused_p99_ms > 0


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("code", "said", "quoted"),
    [
        (422, b'{"error":"rows.0.hour: Field required","detail":[]}', "rows.0.hour: Field required"),
        (404, b"<h1>Not\n found</h1>", "<h1>Not found</h1>"),
        (415, b"", "without a word"),
    ],
)
def test_a_service_that_understands_nothing_ends_the_run(code, said, quoted):
    async def strict(head: bytes, body: bytes) -> bytes:
        return reply(code, said)

    with served(strict) as server, pytest.raises(ContractBroken) as refused:
        OpenLoop().run(server.url, bodies(b"{}"), [Offer("peak", 100, 600)], seed=0)
    assert f"the first 10 were answered {code} ({quoted})" in str(refused.value)


@pytest.mark.e2e
def test_a_few_wrong_rows_end_nothing():
    async def choosy(head: bytes, body: bytes) -> bytes:
        return reply(422 if body == b"bad" else 200)

    with served(choosy) as server:
        stage = OpenLoop().run(server.url, bodies(b"bad", b"good"), [Offer("peak", 50, 1)], seed=0).stages[0]
    assert stage.errors == (stage.planned + 1) // 2


@pytest.mark.e2e
def test_no_answer_in_time_is_an_error():
    async def silent(head: bytes, body: bytes) -> bytes:
        await asyncio.sleep(1)
        return await answer(head, body)

    with served(silent) as server:
        result = OpenLoop(timeout_s=0.2).run(server.url, bodies(b"{}"), [Offer("peak", 20, 0.5)], seed=0)
    assert set(status(result)) == {0}
    assert result.stages[0].requests == result.stages[0].errors == result.stages[0].planned
    assert (result.samples[0].latency_ms >= 200).all()


@pytest.mark.e2e
def test_the_wait_for_a_connection_counts():
    """Twenty requests at once over two connections to a server that takes 20 ms for each."""

    async def slow(head: bytes, body: bytes) -> bytes:
        await asyncio.sleep(0.02)
        return await answer(head, body)

    with served(slow) as server:
        burst = Offer("burst", 1e6, 20 / 1e6, arrivals="constant")
        result = OpenLoop(max_connections=2).run(server.url, bodies(b"{}"), [burst], seed=0)
    assert set(status(result)) == {200} and server.connections == 2
    assert result.samples[0].latency_ms.max() >= 10 * 20


@pytest.mark.e2e
def test_who_waits_longer_than_the_timeout_for_a_connection_has_no_answer():
    async def silent(head: bytes, body: bytes) -> bytes:
        await asyncio.sleep(30)
        return b""

    with served(silent) as server:
        loop = OpenLoop(timeout_s=0.3, max_connections=3)
        result = loop.run(server.url, bodies(b"{}"), [Offer("peak", 100, 0.5)], seed=0)
    assert set(status(result)) == {0} and server.connections >= 3
    assert len(status(result)) == result.stages[0].planned


@pytest.mark.e2e
def test_a_generator_without_connections_says_nothing_of_the_service():
    async def silent(head: bytes, body: bytes) -> bytes:
        await asyncio.sleep(30)
        return b""

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(file.name) for file in Path("/proc/self/fd").iterdir())
    with served(silent) as server, pytest.raises(LoadTestInvalid, match="open no more connections"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, limits[1]))
        try:
            OpenLoop().run(server.url, bodies(b"{}"), [Offer("peak", 200, 600)], seed=0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.e2e
def test_a_server_that_dies_ends_the_run_with_the_samples_so_far():
    served_count, moments = 0, []

    async def mortal(head: bytes, body: bytes) -> bytes:
        nonlocal served_count
        served_count += 1
        if served_count == 50:
            server.die()
        return await answer(head, body)

    offers = [Offer("peak", 100, 30), Offer("twice", 200, 30)]
    with served(mortal) as server:
        result = OpenLoop().run(server.url, bodies(b"{}"), offers, 0, moments.append)
    first, second = result.stages
    assert 50 < first.requests < first.planned and first.errors > 0
    assert (second.requests, second.error_rate) == (0, 1)
    assert result.table().num_rows == first.requests
    assert status(result).count(200) >= 45 and status(result)[-1] == 0
    assert (moments[-1].stage, moments[-1].sent, moments[-1].errors) == ("twice", 0, 0)


@pytest.mark.e2e
def test_a_server_that_is_back_within_a_second_ends_nothing():
    """Refusals between answers are errors, not the end."""
    served_count = 0

    async def forgetful(head: bytes, body: bytes) -> bytes:
        nonlocal served_count
        served_count += 1
        return b"" if served_count % 10 == 0 else await answer(head, body)

    with served(forgetful) as server:
        result = OpenLoop().run(server.url, bodies(b"{}"), [Offer("peak", 100, 2)], seed=0)
    assert len(status(result)) == result.stages[0].planned
    assert status(result).count(0) == served_count // 10


@pytest.mark.e2e
def test_it_also_runs_where_a_loop_runs_already():
    async def caller(url: str):
        return OpenLoop().run(url, bodies(b"{}"), [Offer("peak", 50, 0.5)], seed=0)

    with served() as server:
        assert asyncio.run(caller(server.url)).stages[0].errors == 0


@pytest.mark.e2e
def test_a_mistake_of_who_watches_ends_the_run():
    def tell(_: Moment) -> None:
        raise KeyError("progress")

    with served() as server, pytest.raises(KeyError, match="progress"):
        OpenLoop().run(server.url, bodies(b"{}"), [Offer("peak", 50, 600)], 0, tell)


@pytest.mark.parametrize(
    "url",
    ["http://example.com:80/predict", "http://10.0.0.1:80", "https://127.0.0.1:443", "http://127.0.0.1", "x"],
)
def test_only_this_machine_is_loaded(url):
    with pytest.raises(SettingsInvalid, match=r"127\.0\.0\.1"):
        OpenLoop().run(url, bodies(b"{}"), [Offer("peak", 1, 1)], seed=0)


@pytest.mark.e2e
def test_another_machine_is_loaded_by_who_says_so():
    with served() as server:
        url = server.url.replace("127.0.0.1", "0.0.0.0")
        with pytest.raises(SettingsInvalid):
            OpenLoop().run(url, bodies(b"{}"), [Offer("peak", 50, 0.2)], seed=0)
        result = OpenLoop(anywhere=True).run(url, bodies(b"{}"), [Offer("peak", 50, 0.2)], seed=0)
    assert set(status(result)) == {200}


def test_where_nothing_listens_nothing_is_run():
    with pytest.raises(ServiceFailed, match=r"127\.0\.0\.1:1 can't be reached"):
        OpenLoop().run(NOBODY, bodies(b"{}"), [Offer("peak", 1, 600)], seed=0)


@pytest.mark.parametrize(("given", "rate_rps"), [([], 1.0), ([b"{}"], 1e9)])
def test_a_load_without_rows_or_without_bounds_is_refused(given, rate_rps):
    with pytest.raises(SettingsInvalid):
        OpenLoop().run(NOBODY, bodies(*given), [Offer("peak", rate_rps, 1)], seed=0)


@pytest.mark.parametrize(
    ("errors", "refused", "said"),
    [
        (0, 0, "2x peak  14/20 s  100/s  p99 8.2 ms  0 errors"),
        (1, 0, "2x peak  14/20 s  100/s  p99 8.2 ms  1 error"),
        (12, 7, "2x peak  14/20 s  100/s  p99 8.2 ms  12 errors, 7 of them refused"),
    ],
)
def test_progress_is_one_line(errors, refused, said):
    assert line(Moment("2x peak", 14.2, 20, 1400, 2000, 99.8, 8.24, errors, refused)) == said


@pytest.mark.e2e
def test_the_fake_is_like_the_real_one():
    offers, told = [Offer("one", 40, 0.5), Offer("two", 40, 0.5, to_rps=80)], []
    with served() as server:
        results = [
            traffic.run(server.url, bodies(b"{}"), offers, 5, told.append)
            for traffic in (OpenLoop(), FakeTraffic())
        ]
    real, fake = results
    assert [stage.name for stage in real.stages] == [stage.name for stage in fake.stages]
    assert [stage.planned for stage in real.stages] == [stage.planned for stage in fake.stages]
    assert real.table().schema == fake.table().schema
    assert real.table()["intended_s"].equals(fake.table()["intended_s"])
    real_ends, fake_ends = told[:-2][-1:], told[-1:]
    assert [(end.stage, end.sent, end.planned) for end in real_ends] == [
        (end.stage, end.sent, end.planned) for end in fake_ends
    ]
