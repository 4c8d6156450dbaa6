"""Answers come back as they were; whatever Redis does, the worst is a miss."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from bentos.guarding import cache as cache_module
from bentos.guarding import redis_store
from bentos.guarding.cache import Cache, pack, unpack
from bentos.watching.metrics import PLACES, Metrics
from bentos.work import Job
from tests.bentos.tiny import ROW

OUTPUTS = {"probability": np.float32([0.25, np.nan]), "codes": np.arange(6).reshape(2, 3)}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock=None, url=None, release_id="v3-0a", entries=3) -> Cache:
    return Cache(release_id, 10, entries, Metrics(), url, clock or Clock())


def counted(cache: Cache) -> dict[str, int]:
    names = ("hit", "miss", "stale", "error")
    counts = {name: int(cache._metrics._slots[PLACES["cache", name]]) for name in names}
    return {name: count for name, count in counts.items() if count}


def same(outputs) -> bool:
    np.testing.assert_equal(outputs, OUTPUTS)
    return all(outputs[name].dtype == OUTPUTS[name].dtype for name in OUTPUTS)


def job(rows=None, feeds=None) -> Job:
    return Job(done=lambda job: None, size=1, deadline=0, arrived=0, rows=rows, feeds=feeds)


def test_an_answer_is_repeated_until_it_is_too_old():
    clock = Clock()
    cache = opened(clock)
    assert cache.get(b"a") is None
    cache.put(b"a", OUTPUTS)
    clock.now += 9.9
    assert same(cache.get(b"a"))
    clock.now += 0.1
    assert cache.get(b"a") is None
    assert same(cache.stale(b"a")) and cache.stale(b"b") is None
    assert counted(cache) == {"hit": 1, "miss": 2, "stale": 1}


def test_the_least_recently_used_goes_first():
    cache = opened()
    for key in (b"a", b"b", b"c"):
        cache.put(key, OUTPUTS)
    cache.get(b"a")
    cache.put(b"d", OUTPUTS)
    assert [key for key in (b"a", b"b", b"c", b"d") if cache.stale(key)] == [b"a", b"c", b"d"]


def test_bytes_are_bounded_too(monkeypatch):
    monkeypatch.setattr(cache_module, "MAX_BYTES", 2 * len(pack(OUTPUTS)))
    cache = opened(entries=100)
    for number in range(10):
        cache.put(bytes([number % 4]), OUTPUTS)
    assert [number for number in range(4) if cache.stale(bytes([number]))] == [0, 1]


def test_a_remembered_answer_cannot_be_changed():
    cache = opened()
    cache.put(b"a", OUTPUTS)
    outputs = cache.get(b"a")
    assert outputs and not any(array.flags.writeable for array in outputs.values())


def test_keys_tell_inputs_and_releases_apart():
    whole = np.arange(4, dtype="int64")
    jobs = [
        job([ROW]),
        job([ROW, ROW]),
        job([{**ROW, "hour": 8}]),
        job(feeds={"a": whole}),
        job(feeds={"b": whole}),
        job(feeds={"a": whole.reshape(2, 2)}),
        job(feeds={"a": whole.view("uint64")}),
        job(feeds={"a": whole[:2], "b": whole[2:]}),
        job(feeds={"a": whole[:1], "b": whole[1:]}),
    ]
    keys = {opened(release_id=release).key(each) for release in ("v3", "v4") for each in jobs}
    assert len(keys) == 2 * len(jobs)


def test_keys_of_equal_inputs_are_equal():
    whole = np.arange(12.0).reshape(3, 4)
    cache = opened()
    assert cache.key(job([ROW])) == cache.key(job([dict(ROW)]))
    assert cache.key(job([{"ids": np.arange(3)}])) == cache.key(job([{"ids": [0, 1, 2]}]))
    assert cache.key(job(feeds={"a": whole.T, "b": whole})) == cache.key(
        job(feeds={"b": whole.copy(), "a": whole.T.copy()})
    )


@pytest.mark.parametrize(
    "array",
    [
        np.float16([1.5]),
        np.array([[True], [False]]),
        np.zeros((2, 0, 3)),
        np.array(["b", "äö"]),
        np.uint64([2**63]),
    ],
    ids=str,
)
def test_arrays_survive_packing(array):
    found = unpack(pack({"x": array.T}))["x"]
    np.testing.assert_array_equal(found, array.T)
    assert found.dtype == array.dtype


@pytest.mark.parametrize("at", range(0, len(pack(OUTPUTS)), 7))
def test_no_flipped_bit_and_no_cut_is_believed(at):
    packed = pack(OUTPUTS)
    for damaged in (packed[:at], packed[:at] + bytes([packed[at] ^ 4]) + packed[at + 1 :]):
        with pytest.raises(ValueError):
            unpack(damaged)


def test_objects_are_not_packed():
    with pytest.raises((ValueError, TypeError)):
        unpack(pack({"x": np.array([{}], object)}))


needs_redis = pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")


class Server:
    """A real Redis, which can be killed, stopped and started again."""

    def __init__(self, folder, *options: str) -> None:
        self.url = f"unix://{folder}/redis"
        self.command = ["redis-server", "--port", "0", "--unixsocket", "redis", "--save", "", *options]
        self.folder = folder
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, cwd=self.folder, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                return client.connect(f"{self.folder}/redis")
            time.sleep(0.01)
        raise TimeoutError("redis-server does not listen")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine is no dead Redis."""
    monkeypatch.setattr(redis_store, "TIMEOUT_SECONDS", 5.0)


@needs_redis
def test_workers_share_answers_through_redis(server):
    async def scenario():
        one, other, next_release = (
            opened(url=server.url),
            opened(url=server.url),
            opened(url=server.url, release_id="v4"),
        )
        assert await one.fetch(b"a") is None
        await one.share(b"a", OUTPUTS)
        assert other.get(b"a") is None
        assert same(await other.fetch(b"a")) and same(other.get(b"a"))
        assert await next_release.fetch(b"a") is None
        assert counted(one) == {"miss": 1} and counted(other) == {"hit": 2}
        remaining = await one.redis._client.pttl("seatrial:v3-0a:61")
        assert 0 < remaining <= 10_000
        for cache in (one, other, next_release):
            await cache.close()

    asyncio.run(scenario())


@needs_redis
def test_a_redis_that_dies_costs_misses_and_is_found_again(server, caplog):
    async def scenario():
        clock = Clock()
        cache = opened(clock, server.url)
        await cache.share(b"a", OUTPUTS)
        server.kill()
        assert [await cache.fetch(b"a") for _ in range(50)] == [None] * 50
        assert counted(cache) == {"miss": 50, "error": 1}
        server.start()
        assert await cache.fetch(b"a") is None
        clock.now += redis_store.PAUSE_SECONDS
        await cache.share(b"a", OUTPUTS)
        assert same(await cache.fetch(b"a"))
        await cache.close()

    asyncio.run(scenario())
    assert len(caplog.records) == 1


@needs_redis
def test_a_redis_that_hangs_is_left_alone(server, monkeypatch):
    async def scenario():
        clock = Clock()
        cache = opened(clock, server.url)
        await cache.share(b"a", OUTPUTS)
        await cache.share(b"b", {"x": np.zeros(1)})
        os.kill(server.process.pid, signal.SIGSTOP)
        monkeypatch.setattr(redis_store, "TIMEOUT_SECONDS", 0.05)
        assert await asyncio.gather(*(cache.fetch(key) for key in [b"b"] * 100)) == [None] * 100
        failures = counted(cache)["error"]
        assert [await cache.fetch(b"a") for _ in range(20)] == [None] * 20
        clock.now += redis_store.PAUSE_SECONDS
        assert await asyncio.gather(*(cache.fetch(b"a") for _ in range(20))) == [None] * 20
        assert counted(cache) == {"miss": 140, "error": failures + 1}
        os.kill(server.process.pid, signal.SIGCONT)
        monkeypatch.setattr(redis_store, "TIMEOUT_SECONDS", 5.0)
        clock.now += redis_store.PAUSE_SECONDS
        assert same(await cache.fetch(b"a"))
        await cache.close()

    asyncio.run(scenario())


@needs_redis
def test_garbage_in_redis_is_a_miss(server):
    async def scenario():
        cache = opened(url=server.url)
        client = cache.redis._client
        for value in (b"", b"garbage", pack(OUTPUTS)[:-1]):
            await client.set("seatrial:v3-0a:61", value)
            assert await cache.fetch(b"a") is None
        await client.delete("seatrial:v3-0a:61")
        await client.lpush("seatrial:v3-0a:61", "a list")
        assert await cache.fetch(b"a") is None
        assert counted(cache) == {"miss": 4, "error": 4} and cache.stale(b"a") is None
        await cache.close()

    asyncio.run(scenario())


@needs_redis
def test_a_redis_that_refuses_us_is_a_miss(tmp_path):
    server = Server(tmp_path, "--requirepass", "secret")

    async def scenario():
        cache = opened(url=server.url)
        await cache.share(b"a", OUTPUTS)
        assert await cache.fetch(b"a") is None
        assert counted(cache) == {"miss": 1, "error": 1}
        await cache.close()

    asyncio.run(scenario())
    server.kill()


@pytest.mark.parametrize(
    "reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff" * 40 + b"\r\n", b"$-9\r\n", b"*99999\r\n", b""]
)
def test_whatever_answers_in_its_place_is_a_miss(reply, monkeypatch):
    monkeypatch.setattr(redis_store, "TIMEOUT_SECONDS", 0.2)

    async def answers(reader, writer):
        await reader.read(10)
        writer.write(reply)
        writer.close()

    async def scenario():
        server = await asyncio.start_server(answers, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        cache = opened(url=f"redis://127.0.0.1:{port}")
        assert await cache.fetch(b"a") is None
        assert counted(cache) == {"miss": 1, "error": 1}
        await cache.close()
        server.close()

    asyncio.run(scenario())
