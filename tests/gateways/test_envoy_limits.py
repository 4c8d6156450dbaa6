"""What is let through, and by whom; what is written of it."""

import json
import socket
import threading
from collections import Counter

import pytest

from pipelines.core.errors import SettingsInvalid
from pipelines.core.home import Home
from pipelines.core.rollout.routes import Limits, Route
from pipelines.gateways import access_log, envoy_config
from pipelines.gateways.envoy import Envoy
from tests.gateways.envoy_client import Client, answer, free_port
from tests.until import until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def shared(processes, tmp_path_factory):
    """With less patience and fewer connections than usual."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envoy_config, "HEADERS_SECONDS", 1)
        patch.setattr(envoy_config, "REQUEST_SECONDS", 1)
        patch.setattr(envoy_config, "MAX_CONNECTIONS", 20)
        made = Envoy(Home(tmp_path_factory.mktemp("home")), processes, free_port())
        made.ensure()
        yield made


def route(pair, **limits) -> Route:
    return Route(pair[0], limits=Limits(**limits))


def test_a_request_too_large_is_413(envoy, pair):
    envoy.route({"/small": route(pair, max_body_bytes=1000), "/": route(pair)})
    found = [answer(f"{envoy.address}{path}", b"x" * 2000) for path in ("/small", "/small/x", "/")]
    assert [each and each.status for each in found] == [413, 413, 200]
    assert found[0] and json.loads(found[0].body) == {"error": "the request is larger than this path takes"}
    chunks = (b"x" * 500 for _ in range(4))
    client = Client(envoy.address).connection
    client.request("POST", "/small", chunks, encode_chunked=True, headers={"transfer-encoding": "chunked"})
    assert client.getresponse().status == 413


def test_more_at_once_than_a_service_takes_are_503(envoy, pair):
    envoy.route({"/": route(pair, max_requests=2)})
    found = []
    asking = [
        threading.Thread(target=lambda: found.append(answer(f"{envoy.address}/?seconds=1"))) for _ in range(2)
    ]
    for each in asking:
        each.start()
    until(lambda: envoy.in_flight(pair[0]) == 2)
    refused = answer(f"{envoy.address}/")
    for each in asking:
        each.join()
    assert refused and (refused.status, refused.release) == (503, None)
    assert [each.status for each in found] == [200, 200]


def test_an_answer_too_late_is_504(envoy, pair):
    envoy.route({"/": route(pair, answer_seconds=0.2)})
    found = answer(f"{envoy.address}/?seconds=5")
    assert found and found.status == 504
    assert json.loads(found.body) == {"error": "the service did not answer in time"}


def test_headers_too_large_are_431(envoy, pair):
    envoy.route({"/": route(pair)})
    found = answer(envoy.address, large="x" * 2**16)
    assert found and found.status == 431


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n"]
)
def test_a_request_that_does_not_arrive_is_408(envoy, pair, sent):
    envoy.route({"/": route(pair)})
    with socket.create_connection(("127.0.0.1", envoy.port), timeout=10) as slow:
        slow.sendall(sent)
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_connections_are_limited(envoy, pair):
    envoy.route({"/": route(pair)})
    clients = [Client(envoy.address) for _ in range(20)]
    assert [client.ask("/").status for client in clients] == [200] * 20
    assert answer(envoy.address) is None
    for client in clients:
        client.connection.close()
    until(lambda: answer(envoy.address))


def test_a_path_has_its_own_rate(envoy, pair):
    limited = Limits(max_rps=3)
    envoy.route({"/slow": Route(*pair, weight=0.5, limits=limited), "/": route(pair)})
    client = Client(envoy.address)
    paths = ["/slow", "/slow/x"] * 5
    headers = [{}, {"x_release": "canary"}, {"x_release": "stable"}, {}, {}] * 2
    found = [client.ask(path, **each) for path, each in zip(paths, headers, strict=True)]
    assert [each.status for each in found] == [200] * 3 + [429] * 7
    assert (found[-1].headers["retry-after"], found[-1].release) == ("1", None)
    assert "more requests a second" in json.loads(found[-1].body)["error"]
    assert {client.ask("/").status for _ in range(20)} == {200}
    until(lambda: client.ask("/slow").status == 200)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_a_service_answers_is_passed_on(envoy, pair, status):
    envoy.route({"/": Route(*pair, weight=1.0)})
    for _ in range(10):
        found = answer(f"{envoy.address}/asked?status={status}")
        assert found and (found.status, found.release, found.body) == (status, "new", "/asked")
        assert found.headers["retry-after"] == "7"
    assert envoy.healthy(pair[1])


def test_keys_let_clients_in(envoy, pair):
    envoy.route({"/": route(pair)})
    envoy.keys = {"shop": "secret-1", "app": "secret-2"}
    envoy.ensure()
    shop = answer(envoy.address, x_api_key="secret-1", x_client_id="app")
    app = answer(envoy.address, authorization="Bearer secret-2")
    for found, client in ((shop, "shop"), (app, "app")):
        assert found and (found.status, found.headers["x-client-id"]) == (200, client)
        assert not {"x-api-key", "authorization"} & set(found.headers)
    wrong = [answer(envoy.address), answer(envoy.address, x_api_key="secret-3")]
    assert [each and each.status for each in wrong] == [401, 401]
    another = Envoy(Home(envoy.folder.parents[1]), envoy.processes, envoy.port)
    another.route({"/churn": route(pair)})
    assert [each and each.status for each in (answer(f"{envoy.address}/churn"),)] == [401]
    assert {file.stat().st_mode & 0o77 for file in envoy.files.paths.values()} == {0}
    envoy.keys = {}
    envoy.ensure()
    found = answer(envoy.address, x_client_id="app")
    assert found and found.status == 200 and "x-client-id" not in found.headers


def lines(envoy: Envoy, prefix: str) -> list[dict]:
    files = [*access_log.aside(envoy.access_log), envoy.access_log]
    whole = (line for file in files if file.exists() for line in file.read_text().split("\n")[:-1])
    found = [json.loads(line) for line in whole]
    return [line for line in found if (line["request_id"] or "").startswith(prefix)]


def test_every_request_is_written_down(envoy, pair):
    envoy.route({"/churn": Route(*pair, weight=0.5, label="churn/17/2", limits=Limits(max_body_bytes=100))})
    client, each = Client(envoy.address), iter(range(1000))

    def ask(path: str, body: bytes | None = None, **headers: str) -> None:
        client.ask(path, body, x_request_id=f"written-{next(each)}", **headers)

    for user in range(50):
        ask("/churn/v2", x_user_id=f"user-{user}")
    ask("/churn?status=500", b"rows", x_release="canary")
    ask("/churn", b"x" * 200)
    ask("/nowhere")
    found = until(lambda: len(here := lines(envoy, "written-")) == 53 and here)
    assert all(set(line) == set(access_log.COLUMNS) for line in found)
    assert {line["request_id"] for line in found} == {f"written-{each}" for each in range(53)}
    assert {line["user"] for line in found[:50]} == {f"user-{user}" for user in range(50)}
    assert Counter((line["arm"], line["release"]) for line in found[:50]).keys() == {
        ("stable", "old"),
        ("canary", "new"),
    }
    expected = {"route": "churn/17/2", "status": 200, "attempts": 1, "model_path": "/churn", "path": "/v2"}
    assert {name: found[0][name] for name in expected} == expected
    assert float(found[0]["at"]) > 1.7e9 and isinstance(found[0]["us"], int)
    failed = {"status": 500, "arm": "canary", "release": "new", "forced": "canary", "method": "POST"}
    assert {name: found[50][name] for name in failed} == failed
    turned_away = {"status": 413, "release": None, "attempts": 0, "route": "churn/17/2"}
    assert {name: found[51][name] for name in turned_away} == turned_away
    assert (found[52]["status"], found[52]["arm"]) == (404, None)


def test_the_log_is_put_aside_and_loses_nothing(envoy, pair):
    envoy.route({"/": route(pair)})
    client = Client(envoy.address)
    for each in range(300):
        client.ask("/", x_request_id=f"turned-{each}")
        if each % 100 == 50:
            envoy.rotate(0, 2**30)
    until(lambda: len(lines(envoy, "turned-")) == 300)
    assert {line["request_id"] for line in lines(envoy, "turned-")} == {
        f"turned-{each}" for each in range(300)
    }
    assert len(access_log.aside(envoy.access_log)) >= 2
    newest = access_log.aside(envoy.access_log)[-1]
    envoy.rotate(2**30, newest.stat().st_size)
    assert access_log.aside(envoy.access_log) == [newest]


@pytest.mark.parametrize("keys", [{"shop": "same", "app": "same"}, {"shop": "", "app": ""}])
def test_keys_that_tell_nobody_apart_are_one_sentence(envoy, keys):
    envoy.keys = keys
    with pytest.raises(
        SettingsInvalid, match=r"API keys of clients is \['app', 'shop'\]; give each"
    ) as failure:
        envoy.ensure()
    assert "same" not in str(failure.value)
