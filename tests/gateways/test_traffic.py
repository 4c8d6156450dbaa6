"""The open loop against real servers: healthy, stalling, dead."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from aiohttp import web

from pipelines.core.errors import SettingsInvalid
from pipelines.core.latency import arrivals, percentile
from pipelines.gateways.traffic import OpenLoop

Handler = Callable[[web.Request], Awaitable[web.Response]]


@contextmanager
def served(handler: Handler) -> Iterator["Served"]:
    """An HTTP server on a free port, in a thread of its own."""
    server = Served(handler)
    try:
        yield server
    finally:
        server.stop()


class Served:
    def __init__(self, handler: Handler) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._runner = web.AppRunner(self._app(handler), shutdown_timeout=0)
        port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.url = f"http://127.0.0.1:{port}/predict"

    def _app(self, handler: Handler) -> web.Application:
        app = web.Application()
        app.router.add_post("/predict", handler)
        return app

    async def _start(self) -> int:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return self._runner.addresses[0][1]

    def stop_soon(self) -> None:
        """To be called by the handler."""
        self._closing = asyncio.ensure_future(self._runner.cleanup())

    def stop(self) -> None:
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def answer(request: web.Request) -> web.Response:
    await request.read()
    return web.json_response({})


@pytest.mark.e2e
def test_every_request_is_sent_once_in_turn_and_answered():
    received, progress = [], []

    async def handler(request: web.Request) -> web.Response:
        received.append((await request.read(), request.headers["content-type"]))
        return web.json_response({})

    with served(handler) as server:
        stages = [("one", 50.0, 1.0), ("two", 100.0, 1.0)]
        result = OpenLoop().run(server.url, [b"1", b"2"], stages, 3, lambda *sent: progress.append(sent))
    planned = [len(arrivals(50, 1, 3)), len(arrivals(100, 1, 4))]
    assert [(stage.name, stage.planned, stage.requests, stage.errors) for stage in result.stages] == [
        ("one", planned[0], planned[0], 0),
        ("two", planned[1], planned[1], 0),
    ]
    bodies = [body for body, _ in received]
    assert len(bodies) == sum(planned) and abs(bodies.count(b"1") - bodies.count(b"2")) <= 1
    assert {kind for _, kind in received} == {"application/json"}
    assert result.samples.column_names == ["stage", "intended_s", "sent_s", "latency_ms", "status"]
    assert set(result.samples["status"].to_pylist()) == {200}
    assert progress[-1] == ("two", planned[1], planned[1])


@pytest.mark.e2e
def test_a_stall_counts_for_all_who_came_during_it():
    """The server answers at once, but from its 100th request on it is stuck for a second. A generator that
    waited for answers would see one slow request in 300; the truth is a p99 of nearly the whole second."""
    stall_s, first, served_count, ends = 1.0, 100, 0, 0.0

    async def handler(request: web.Request) -> web.Response:
        nonlocal served_count, ends
        served_count += 1
        if served_count == first + 1:
            ends = time.monotonic() + stall_s
        await asyncio.sleep(max(0.0, ends - time.monotonic()))
        return await answer(request)

    with served(handler) as server:
        result = OpenLoop().run(server.url, [b"{}"], [("peak", 100.0, 3.0)], seed=1)
    times = arrivals(100, 3, 1)
    waits_ms = (times[first] + stall_s - times) * 1000
    true_ms = np.where((times >= times[first]) & (waits_ms > 0), waits_ms, 0)
    assert result.stages[0].p99_ms == pytest.approx(percentile(true_ms, 99), rel=0.05)
    assert result.stages[0].errors == 0


@pytest.mark.e2e
def test_error_answers_are_errors():
    async def overloaded(request: web.Request) -> web.Response:
        return web.Response(status=503)

    with served(overloaded) as server:
        result = OpenLoop().run(server.url, [b"{}"], [("peak", 50.0, 1.0)], seed=0)
    assert set(result.samples["status"].to_pylist()) == {503}
    assert result.stages[0].error_rate == 1


@pytest.mark.e2e
def test_no_answer_in_time_is_an_error():
    async def silent(request: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    with served(silent) as server:
        result = OpenLoop(timeout_s=0.2).run(server.url, [b"{}"], [("peak", 20.0, 0.5)], seed=0)
    assert set(result.samples["status"].to_pylist()) == {0}
    assert result.stages[0].requests == result.stages[0].errors == result.stages[0].planned


@pytest.mark.e2e
def test_a_server_that_dies_ends_the_run_with_the_samples_so_far():
    served_count = 0

    async def mortal(request: web.Request) -> web.Response:
        nonlocal served_count
        served_count += 1
        if served_count == 50:
            server.stop_soon()
        return await answer(request)

    with served(mortal) as server:
        result = OpenLoop().run(server.url, [b"{}"], [("peak", 100.0, 30.0), ("twice", 200.0, 30.0)], seed=0)
    first, second = result.stages
    assert 50 < first.requests < first.planned and first.errors > 0
    assert (second.requests, second.error_rate) == (0, 1)
    assert len(result.samples) == first.requests
    status = result.samples["status"].to_numpy()
    assert (status == 200).sum() >= 45 and status[-1] == 0


@pytest.mark.e2e
def test_it_also_runs_where_a_loop_runs_already():
    async def caller(url: str):
        return OpenLoop().run(url, [b"{}"], [("peak", 50.0, 0.5)], seed=0)

    with served(answer) as server:
        assert asyncio.run(caller(server.url)).stages[0].errors == 0


@pytest.mark.parametrize("url", ["http://example.com/predict", "http://10.0.0.1/", "https://127.0.0.1/", "x"])
def test_only_this_machine_is_loaded(url):
    with pytest.raises(SettingsInvalid, match=r"127\.0\.0\.1"):
        OpenLoop().run(url, [b"{}"], [("peak", 1.0, 1.0)], seed=0)


@pytest.mark.parametrize(("bodies", "rate_rps"), [([], 1.0), ([b"{}"], 1e9)])
def test_a_load_without_rows_or_without_bounds_is_refused(bodies, rate_rps):
    with pytest.raises(SettingsInvalid):
        OpenLoop().run("http://127.0.0.1:1/predict", bodies, [("peak", rate_rps, 1.0)], seed=0)
