"""What carries the load: answers of HTTP/1.1 in every form, gRPC's status codes, and the real service."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from bentos.manifest import Plan
from pipelines.core.errors import ContractBroken, ServiceFailed
from pipelines.core.latency import Offer
from pipelines.gateways.load import http_wire
from pipelines.gateways.payloads import GRPC_PATH, Payloads, payloads
from pipelines.gateways.traffic import OpenLoop
from tests.bentos.serving import free_port, metric, serving
from tests.bentos.tiny import CONTRACT, ROW, packed
from tests.gateways.http_server import reply, served

pytestmark = pytest.mark.e2e
GET_ON = Payloads("json", "/predict", [b"{}"], [()])
CALL = Payloads("grpc", GRPC_PATH, [b""], [()])
OFFER = [Offer("peak", 100, 0.3)]


def statuses(url: str, given: Payloads, **options) -> list[int]:
    return OpenLoop(**options).run(url, given, OFFER, seed=0).table()["status"].to_pylist()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(reply(200, b"x" * 200_000), 200, id="more than one read brings"),
        pytest.param(reply(200, b""), 200, id="no body"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 204, id="no body and no length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nk:v\r\n\r\n",
            200,
            id="chunked",
        ),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + reply(201), 201, id="a word before the answer"),
        pytest.param(reply(200, headers="connection: close\r\n"), 200, id="closed after it"),
        pytest.param(b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx", 200, id="1.0"),
        pytest.param(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc", 200, id="ends with the connection"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 9\r\n\r\nabc", 0, id="cut off"
        ),
        pytest.param(b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", 302, id="a redirect"),
        pytest.param(b"SSH-2.0-OpenSSH\r\nconnection: close\r\n", 0, id="no HTTP"),
        pytest.param(b"", 0, id="none"),
    ],
)
def test_an_answer_has_a_status_and_an_end(answer, status):
    async def handler(head: bytes, body: bytes) -> bytes:
        return answer

    with served(handler) as server:
        found = statuses(server.url, GET_ON)
    assert len(found) > 10 and set(found) == {status}


def test_an_answer_may_come_byte_by_byte():
    """The parts are written by hand, a turn of the loop apart."""

    async def handler(head: bytes, body: bytes) -> bytes:
        whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        for at in range(len(whole) - 1):
            await server.write_now(whole[at : at + 1])
        return whole[-1:]

    with served(handler) as server:
        assert set(statuses(server.url, GET_ON, max_connections=1)) == {200}
        assert server.connections == 1


def test_connections_are_kept():
    with served() as server:
        count = len(statuses(server.url, GET_ON))
        assert server.connections < count / 2


def test_a_connection_that_was_idle_is_closed_before_the_server_does(monkeypatch):
    monkeypatch.setattr(http_wire, "IDLE_S", -1)
    with served() as server:
        found = statuses(server.url, GET_ON)
        assert set(found) == {200} and server.connections > len(found) / 2


@contextmanager
def refusing(code: grpc.StatusCode | None, words: str = "no"):
    """A gRPC server that answers every call with the code, and its address."""

    def handler(body: bytes, context: grpc.ServicerContext) -> bytes:
        if code is not None:
            context.abort(code, words)
        return b""

    class Any(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails):
            return grpc.unary_unary_rpc_method_handler(handler)

    server = grpc.server(ThreadPoolExecutor(4), handlers=(Any(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (None, 200),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
        (grpc.StatusCode.INTERNAL, 500),
        (grpc.StatusCode.DATA_LOSS, 500),
        (grpc.StatusCode.CANCELLED, 499),
    ],
)
def test_codes_of_grpc_are_told_as_those_of_http(code, status):
    with refusing(code) as (url, _):
        found = statuses(url, CALL)
    assert len(found) > 10 and set(found) == {status}


def test_a_grpc_service_that_understands_nothing_ends_the_run():
    says = pytest.raises(ContractBroken, match=r"answered 400 \(inputs.hour: is missing\)")
    with refusing(grpc.StatusCode.INVALID_ARGUMENT, "inputs.hour: is missing") as (url, _), says:
        OpenLoop().run(url, CALL, [Offer("peak", 100, 600)], seed=0)


def test_a_grpc_server_that_dies_ends_the_run():
    dies = threading.Timer(0.5, lambda: server.stop(None))
    with refusing(None) as (url, server):
        dies.start()
        result = OpenLoop().run(url, CALL, [Offer("peak", 100, 600)], seed=0)
    found = result.samples[0].status
    assert found[0] == 200 and found[-1] == 0 and len(found) < result.stages[0].planned


def test_where_nobody_speaks_grpc_nothing_is_run(monkeypatch):
    from pipelines.gateways.load import grpc_wire

    monkeypatch.setattr(grpc_wire, "REACH_S", 0.2)
    with pytest.raises(ServiceFailed, match="can't be reached"):
        OpenLoop().run("http://127.0.0.1:1", CALL, OFFER, seed=0)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The tiny model in the real service, and the URL of its gRPC."""
    folder, port = tmp_path_factory.mktemp("release"), free_port()
    _, manifest = packed(folder / "v3", plan=Plan(max_batch_size=8))
    manifest.save(folder / "v3")
    with serving(folder, folder / "v3", SEATRIAL_GRPC_PORT=str(port)) as service:
        yield service, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(("wire", "way"), [("json", "predict"), ("binary", "v2_binary"), ("grpc", "grpc")])
def test_the_service_answers_on_every_wire(release, wire, way):
    service, grpc_url = release
    rows = [{**ROW, "hour": hour, "wind": wind} for hour, wind in ((0, None), (23, 1.5))]
    url = grpc_url if wire == "grpc" else service.url
    found = statuses(url, payloads(wire, "tiny", CONTRACT, rows))
    assert len(found) > 10 and set(found) == {200}
    assert metric(service, "requests_total", way=way, outcome="ok") == len(found)


@pytest.mark.parametrize("wire", ["json", "binary", "grpc"])
def test_the_service_says_what_is_wrong_with_a_row(release, wire):
    service, grpc_url = release
    given = payloads(wire, "tiny", CONTRACT, [{**ROW, "hour": 24}])
    with pytest.raises(ContractBroken, match=r"were answered 4\d\d .*hour.*23"):
        OpenLoop().run(grpc_url if wire == "grpc" else service.url, given, OFFER, seed=0)
