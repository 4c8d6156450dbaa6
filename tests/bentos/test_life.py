"""The life of `bentoml serve`: warm before it is ready, flat in memory, replaced when killed, and ending
without a lost request; slow clients cost nobody else."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import httpx
import psutil
import pytest

from bentos.errors import Unavailable
from bentos.http.lane import KEEP_ALIVE_SECONDS, Lane
from bentos.http.messages import Answer
from bentos.manifest import Manifest, Plan
from bentos.release import Release
from bentos.settings import Settings
from tests.bentos import tiny
from tests.bentos.faulty import A_MILLISECOND, BUSY, busy_packed
from tests.bentos.serving import Line, Served, end, free_port, keep_asking, post, serving, start

READ_SECONDS = 2
MIB = 2**20


def busy(milliseconds: float, path: str = "/predict") -> bytes:
    row = {"turns": int(milliseconds * A_MILLISECOND), "value": 1.0}
    return post(path, json.dumps({"rows": [row]}).encode())


TINY = post("/predict", json.dumps({"rows": [tiny.ROW]}).encode())


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One worker, short of patience with slow clients."""
    folder = tmp_path_factory.mktemp("single")
    _, manifest = tiny.packed(folder / "v3", plan=Plan(max_batch_size=32))
    manifest.save(folder / "v3")
    with serving(folder, folder / "v3", SEATRIAL_READ_SECONDS=str(READ_SECONDS)) as served:
        yield served


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two workers that share an HTTP and a gRPC port."""
    folder, port = tmp_path_factory.mktemp("pair"), free_port()
    busy_packed(folder / "v1", Plan(workers=2, max_batch_size=8, max_latency_ms=10_000))
    with serving(folder, folder / "v1", SEATRIAL_GRPC_PORT=str(port)) as served:
        while len(listening(served, port)) < 2:
            time.sleep(0.05)  # a worker that is ready tells only who asks, and any of them answers
        yield served, port


def listening(served: Served, port: int) -> list[int]:
    """The workers that listen on a port of their own making."""
    return [worker.pid for worker in served.workers() if 0 in ports_of(worker, port)]


def ports_of(process: psutil.Process, port: int) -> set[int]:
    """Whom a process is connected to on its port, by their ports; 0: it listens there."""
    with suppress(psutil.NoSuchProcess):
        connections = process.net_connections("tcp")
        return {c.raddr.port if c.raddr else 0 for c in connections if c.laddr.port == port}
    return set()


class Asking:
    """Clients in threads that ask again and again. `told` holds what they say: port and status."""

    def __init__(self, served: Served, request: bytes, clients: int) -> None:
        self.told: list[tuple[int, int]] = []
        self._stop = threading.Event()
        arguments = (served, request, self._stop.is_set, self.told)
        self._threads = [threading.Thread(target=keep_asking, args=arguments) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, more: int) -> None:
        enough = len(self.told) + more
        while len(self.told) < enough:
            time.sleep(0.005)  # threads append, and tell nobody

    def end(self, stop: bool = True) -> None:
        if stop:
            self._stop.set()
        for thread in self._threads:
            thread.join()


# Ready.


def test_nothing_is_answered_before_all_is_warm(tmp_path, monkeypatch):
    ran = []

    def open_engine(*arguments):
        from bentos.engines.engine import Engine

        class Recording(Engine):
            def _values(self, feeds):
                ran.append(len(feeds["turns"]))
                return super()._values(feeds)

        return Recording(arguments[0], BUSY)

    monkeypatch.setattr("bentos.release.open_engine", open_engine)
    plan = Plan(max_batch_size=8, padded_batch_sizes=(1, 2, 4, 8))
    release = Release(tmp_path, busy_packed(tmp_path, plan), Settings())
    assert set(ran) == {1, 2, 4, 8}
    assert not release.is_ready


@pytest.mark.e2e
def test_who_comes_while_it_starts_waits_until_it_is_ready(tmp_path):
    busy_packed(tmp_path / "v1")
    served = start(tmp_path, tmp_path / "v1")
    try:
        while True:
            try:
                line = Line(served)
                break
            except ConnectionRefusedError:
                time.sleep(0.01)  # the port is not announced
        with line:
            line.send(busy(0))
            assert line.answer().status == 200
        assert "Completed async startup hook" in served.log.read_text()
    finally:
        end(served)


# Slow clients.


class Fake:
    """A transport, a loop and a front, for a connection to nowhere."""

    def __init__(self) -> None:
        self.now, self.closed, self.aborted, self.wrote, self.writes = 0.0, False, False, b"", 0
        self.stamp, self.max_body_bytes = (), 100
        self.server = SimpleNamespace(connections=set(), tasks=set(), default_headers=[], total_requests=0)
        config = SimpleNamespace(
            loaded=True, loaded_app=None, ws_protocol_class=None, root_path="", asgi_version="3.0",
            limit_concurrency=None, timeout_keep_alive=5,
        )  # fmt: skip
        self.lane = Lane(config, self.server, {}, self)  # pyright: ignore[reportArgumentType]
        self.lane.connection_made(self)

    def time(self) -> float:
        return self.now

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, _: str) -> None:
        return None

    def write(self, content: bytes) -> None:
        self.wrote += content
        self.writes += 1

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def handler(self, *_: bytes):
        return self.keep

    def keep(self, head, body, reply) -> None:
        self.reply = reply

    def call(self, handler, head, body, reply) -> None:
        handler(head, body, reply)

    def way(self, *_: object) -> None:
        return None

    def refused(self, refusal, name, way) -> Answer:
        return Answer(refusal.status, name, (b"{}",))

    def resume_reading(self) -> None:
        pass

    @property
    def release(self):
        return SimpleNamespace(is_ready=True, cancel=lambda job: None)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(Lane, "connected", set())
    monkeypatch.setattr(Lane, "_common", ([], b""))
    made = Fake()
    monkeypatch.setattr(Lane, "front", made, raising=False)
    return made


def at(fake: Fake, seconds: float) -> None:
    fake.now = seconds
    Lane.sweep()


@pytest.mark.parametrize(
    ("sent", "more"),
    [
        pytest.param(b"P", b"OST", id="a byte"),
        pytest.param(TINY[:30], b"xxx", id="half a head"),
        pytest.param(TINY[:-9], TINY[-9:-3], id="half a body"),
    ],
)
def test_a_request_that_does_not_come_to_its_end_is_refused(fake, sent, more):
    fake.now = 10
    fake.lane.data_received(sent)
    at(fake, 10 + Lane.read_seconds - 1)
    for byte in more:  # however busy its client is
        fake.lane.data_received(bytes([byte]))
    assert not fake.closed
    at(fake, 10 + Lane.read_seconds + 1)
    assert fake.closed
    assert fake.wrote.startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_says_nothing_is_closed(fake):
    at(fake, Lane.read_seconds - 1)
    assert not fake.closed
    at(fake, Lane.read_seconds + 1)
    assert (fake.closed, fake.wrote) == (True, b"")


def test_a_connection_is_kept_between_requests_but_not_for_ever(fake):
    fake.lane.data_received(TINY)
    at(fake, 10_000)
    assert not fake.closed  # however long the answer takes
    fake.reply(Answer(200, b"1", (b"[]",)))
    at(fake, 10_000 + KEEP_ALIVE_SECONDS - 1)
    assert not fake.closed
    at(fake, 10_000 + KEEP_ALIVE_SECONDS + 1)
    assert fake.closed and not fake.aborted
    at(fake, 10_000 + KEEP_ALIVE_SECONDS + 2)
    assert fake.aborted  # its client has not read to the end either


def test_an_answer_leaves_in_one_piece(fake):
    # Of a process that is killed there is a whole answer or none, which a router can ask for elsewhere.
    fake.lane.data_received(TINY)
    fake.reply(Answer(200, b"1", (b"[1,", b"2]")))
    assert fake.writes == 1 and fake.wrote.endswith(b"\r\n\r\n[1,2]")


def test_a_head_of_one_endless_header_is_refused(fake):
    for _ in range(100):
        fake.lane.data_received(b"GET / HTTP/1.1\r\nx: " if not fake.lane.receiving else b"y" * 1000)
    assert fake.wrote.startswith(b"HTTP/1.1 413 ")


def test_endless_words_around_the_chunks_of_a_body_are_refused(fake):
    fake.lane.data_received(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ")
    for _ in range(100):
        fake.lane.data_received(b"y" * 1000)
    assert fake.wrote.startswith(b"HTTP/1.1 413 ")


@pytest.mark.e2e
def test_slow_clients_are_told_to_go_and_cost_nobody_else(single: Served):
    beginnings = [b"P", TINY[:30], TINY[:-1], b"GET / HTTP/1.1\r\nx: "]
    lines = [Line(single) for _ in range(32)]
    for line, sent in zip(lines, beginnings * 8, strict=True):
        line.send(sent)
    with Line(single) as quick:
        for _ in range(100):
            quick.send(TINY)
            assert quick.answer().status == 200
    for line in lines:
        assert [answer.status for answer in line.answers()] == [408]
        line.end()


@pytest.mark.e2e
def test_a_client_that_sends_a_byte_now_and_then_is_closed(single: Served):
    with Line(single) as line, pytest.raises(OSError):
        for byte in b"POST /predict HTTP/1.1\r\n" + b"x" * 1000:
            line.send(bytes([byte]))
            time.sleep(READ_SECONDS / 20)  # that is what it is about


@pytest.mark.e2e
def test_a_client_that_does_not_read_is_not_read_from(single: Served):
    (worker,) = single.workers()
    before = worker.memory_info().rss
    connection = socket.create_connection(("127.0.0.1", single.port), timeout=1)
    with connection, pytest.raises(TimeoutError):
        for _ in range(1000):
            connection.sendall(b"GET /v2/models/tiny HTTP/1.1\r\nhost: x\r\n\r\n" * 5000)
    assert worker.memory_info().rss - before < 64 * MIB


# Steady.


async def flood(served: Served, requests: int, clients: int = 32) -> None:
    """Ask so many times in all, on connections that are kept."""
    left, done = requests, asyncio.get_running_loop().create_future()

    class Client(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            transport.write(TINY)

        def data_received(self, data):
            nonlocal left
            assert data.startswith(b"HTTP/1.1 200 ")
            left -= 1
            if left >= clients:
                self.transport.write(TINY)
            elif left == 0:
                done.set_result(None)

    made = [
        await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", served.port)
        for _ in range(clients)
    ]
    await done
    for transport, _ in made:
        transport.close()


@pytest.mark.e2e
def test_memory_and_descriptors_are_flat_over_100_000_requests(single: Served):
    import uvloop

    (worker,) = single.workers()
    uvloop.run(flood(single, 20_000))
    memory, descriptors = worker.memory_info().rss, worker.num_fds()
    uvloop.run(flood(single, 80_000))
    assert worker.memory_info().rss - memory < 16 * MIB
    assert worker.num_fds() <= descriptors + 32  # connections that the server has not seen closed yet


# Killed.


@pytest.mark.e2e
def test_only_what_a_killed_worker_had_in_flight_is_lost(pair):
    served, _ = pair
    first = {worker.pid for worker in served.workers()}
    asking = Asking(served, busy(2), clients=16)
    try:
        asking.wait_for(200)
        victim = max(served.workers(), key=lambda worker: len(ports_of(worker, served.port)))
        victim.suspend()  # so that it takes no connection any more
        of_victim = ports_of(victim, served.port)
        os.kill(victim.pid, signal.SIGKILL)
        asking.wait_for(200)
        while len({worker.pid for worker in served.workers()} - first) < 1:
            time.sleep(0.1)  # BentoML's supervisor tells nobody
        asking.wait_for(200)
    finally:
        asking.end()
    lost = [port for port, status in asking.told if status == 0]
    assert {status for _, status in asking.told} <= {0, 200}
    assert set(lost) <= of_victim
    assert len(lost) == len(set(lost))


@pytest.mark.e2e
def test_workers_share_the_grpc_port_and_live_without_each_other(pair):
    import numpy as np
    import tritonclient.grpc as triton

    served, port = pair
    turns = triton.InferInput("turns", [1], "INT64").set_data_from_numpy(np.array([10]))
    value = triton.InferInput("value", [1], "FP32").set_data_from_numpy(np.array([2], np.float32))

    def ask() -> None:
        alone = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
        with triton.InferenceServerClient(f"127.0.0.1:{port}", channel_args=alone) as client:
            assert client.infer("busy", [turns, value]).as_numpy("score") == [4]
            met.update(worker for worker in served.workers() if ports_of(worker, port) - {0})

    while len(listening(served, port)) < 2:
        time.sleep(0.1)  # the one that was killed before is being replaced
    met: set[psutil.Process] = set()
    while len(met) < 2:
        ask()  # the system chooses
    victim = met.pop()
    victim.kill()
    while victim.pid in listening(served, port):
        time.sleep(0.01)
    for _ in range(10):
        ask()


# Ending.


@pytest.mark.e2e
def test_the_end_of_the_service_answers_all_that_was_asked(tmp_path):
    busy_packed(tmp_path / "v1", Plan(workers=2, max_batch_size=8, max_latency_ms=30_000, drain_seconds=0.5))
    served = start(tmp_path, tmp_path / "v1")
    try:
        served.wait_until_ready()
        asking = Asking(served, busy(2), clients=8)
        asking.wait_for(100)
        with Line(served) as long:
            long.send(busy(1500))
            asking.wait_for(20)
            served.process.send_signal(signal.SIGTERM)
            asking.end(stop=False)  # each is told that its connection closes
            assert {status for _, status in asking.told} == {200}
            assert long.answer().status == 200
        assert served.process.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{served.url}/livez")
    finally:
        end(served)


def test_a_release_that_ends_says_so_and_answers_on(tmp_path):
    from bentos.http.front import Front

    manifest = busy_packed(tmp_path)
    said = []

    async def live() -> None:
        release = Release(tmp_path, Manifest.load(tmp_path), Settings())
        front = Front(release, {})
        ready = front.handler(b"GET", b"/v2/health/ready", b"")
        assert ready is not None
        front.call(ready, {}, b"", said.append)
        await release.start()
        front.call(ready, {}, b"", said.append)
        release.unready()
        front.call(ready, {}, b"", said.append)
        assert (await release.answer([{"turns": 1, "value": 2.0}]))["score"] == [4]
        await release.close()
        with pytest.raises(Unavailable):
            await release.answer([{"turns": 1, "value": 2.0}])

    asyncio.run(live())
    assert [answer.status for answer in said] == [503, 200, 503]
    assert manifest.plan.drain_seconds > 0
