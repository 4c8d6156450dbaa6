import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from pipelines.core.errors import PortTaken, ServiceFailed
from pipelines.core.home import Home
from pipelines.gateways.deployments import free_port
from pipelines.gateways.envoy import Envoy, Target
from pipelines.gateways.processes import Command
from tests.fakes import service
from tests.fakes.envoy import FakeRouter
from tests.fakes.processes import FakeProcesses

NOBODY = Target("nobody", 70000)  # no such port


@pytest.fixture
def processes(tmp_path):
    made = FakeProcesses(tmp_path / "logs")
    yield made
    made.shutdown()


@pytest.fixture
def envoy(tmp_path, processes):
    made = Envoy(Home(tmp_path), processes, free_port())
    made.ensure()
    return made


@pytest.fixture(params=["fake", pytest.param("envoy", marks=pytest.mark.e2e)])
def router(request):
    return FakeRouter() if request.param == "fake" else request.getfixturevalue("envoy")


@pytest.fixture
def serve(processes):
    """Starts services and returns their targets once they answer."""

    def start(*release_ids: str) -> list[Target]:
        targets = [Target(release_id, free_port()) for release_id in release_ids]
        for target in targets:
            argv = (sys.executable, str(Path(service.__file__)), str(target.port), target.release_id)
            processes.start(f"service-{target.release_id}", Command(argv))
        for target in targets:
            until(lambda target=target: answer(f"http://127.0.0.1:{target.port}/livez"))
        return targets

    return start


def answer(url: str) -> tuple[int, str | None, str] | None:
    """Status, release and body; None where nobody answers."""
    try:
        with urlopen(url, timeout=10) as response:
            return response.status, response.headers["x-release-id"], response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.headers["x-release-id"], error.read().decode()
    except (URLError, ConnectionError):
        return None


def until(found, seconds: float = 30):
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)  # what another process does is only seen by looking
    return value


def test_router_sends_requests_to_its_target(router, serve):
    (target,) = serve("r1")
    router.ensure()
    assert router.routes() == {}
    router.route({"/": target})
    assert router.routes() == {"/": target}
    assert answer(f"{router.address}/predict") == (200, "r1", "/predict")
    assert router.in_flight(target) == 0


def test_target_that_does_not_answer_leaves_the_routes(router, serve):
    (target,) = serve("r1")
    router.route({"/": target})
    router.answer_seconds = 1
    with pytest.raises(ServiceFailed, match="healthy"):
        router.route({"/": Target("r2", free_port())})
    assert router.routes() == {"/": target}
    assert answer(f"{router.address}/predict") == (200, "r1", "/predict")


@pytest.mark.e2e
def test_longest_prefix_wins_and_is_cut_off(envoy, serve):
    root, churn, delay = serve("root", "churn", "delay")
    envoy.route({"/": root, "/churn": churn, "/churn/delay": delay})
    expected = {
        "/predict": ("root", "/predict"),
        "/churn": ("churn", "/"),
        "/churn/predict": ("churn", "/predict"),
        "/churn/delay/v2/models": ("delay", "/v2/models"),
        "/churning": ("root", "/churning"),
    }
    assert {path: answer(envoy.address + path)[1:] for path in expected} == expected


@pytest.mark.e2e
def test_a_request_keeps_its_id_or_gets_one(envoy, serve):
    (target,) = serve("r1")
    envoy.route({"/churn": target})
    for given in ({"x-request-id": "order-17"}, {}):
        request = Request(f"{envoy.address}/churn/v2/models/churn/infer", headers=given)
        with urlopen(request, timeout=10) as response:
            assert response.read() == b"/v2/models/churn/infer"
            found = response.headers["x-request-id"]
        assert found == given.get("x-request-id", found) and found


@pytest.mark.e2e
def test_without_routes_it_answers_at_once(envoy):
    assert answer(f"{envoy.address}/predict")[0] == 404


@pytest.mark.e2e
def test_refused_clusters_keep_the_old_routes(envoy, serve):
    (target,) = serve("r1")
    envoy.route({"/": target})
    files = {file: file.read_text() for file in envoy.files.values()}
    with pytest.raises(ServiceFailed, match=r"refused the clusters.*PortValue"):
        envoy.route({"/": NOBODY})
    assert {file: file.read_text() for file in envoy.files.values()} == files
    assert answer(f"{envoy.address}/predict") == (200, "r1", "/predict")
    envoy.route({"/churn": target})
    assert answer(f"{envoy.address}/churn/predict") == (200, "r1", "/predict")


@pytest.mark.e2e
def test_refused_routes_keep_the_old_ones(envoy, serve, monkeypatch):
    first, second = serve("r1", "r2")
    envoy.route({"/": first})
    monkeypatch.setattr("pipelines.gateways.envoy_config.RESPONSE_SECONDS", -1)
    with pytest.raises(ServiceFailed, match="refused the routes"):
        envoy.route({"/": second})
    assert envoy.routes() == {"/": first}
    assert answer(f"{envoy.address}/predict") == (200, "r1", "/predict")


@pytest.mark.e2e
def test_request_in_flight_is_counted_and_goes_on(envoy, serve):
    first, second = serve("r1", "r2")
    envoy.route({"/": first})
    answers = []
    slow = threading.Thread(target=lambda: answers.append(answer(f"{envoy.address}/slow?seconds=2")))
    slow.start()
    until(lambda: envoy.in_flight(first) == 1)
    envoy.route({"/": second})
    assert answer(f"{envoy.address}/predict")[1] == "r2"
    assert envoy.in_flight(first) == 1
    slow.join()
    assert answers == [(200, "r1", "/slow")]
    assert envoy.in_flight(first) == 0


@pytest.mark.e2e
def test_idle_target_is_forgotten(envoy, serve):
    first, second = serve("r1", "r2")
    envoy.route({"/": first})
    envoy.route({"/": second})
    assert set(envoy.admin.hosts()) == {f"r2@{second.port}"}


@pytest.mark.e2e
def test_taken_port_is_one_sentence(tmp_path, processes):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"Port {port} .* set SEATRIAL_PORT"):
            Envoy(Home(tmp_path), processes, port).ensure()
    assert processes.states() == {}


@pytest.mark.e2e
def test_restart_goes_on_with_the_last_routes(tmp_path, envoy, processes, serve):
    (target,) = serve("r1")
    envoy.route({"/": target})
    os.kill(processes.children["envoy"].pid, signal.SIGKILL)
    processes.children["envoy"].wait()
    again = Envoy(Home(tmp_path), processes, envoy.port)
    again.ensure()
    assert answer(f"{again.address}/predict") == (200, "r1", "/predict")
    pid = processes.children["envoy"].pid
    again.ensure()
    assert processes.children["envoy"].pid == pid


@pytest.mark.e2e
def test_another_port_moves_the_address(tmp_path, envoy, processes, serve):
    (target,) = serve("r1")
    envoy.route({"/": target})
    moved = Envoy(Home(tmp_path), processes, free_port())
    moved.ensure()
    assert answer(f"{moved.address}/predict") == (200, "r1", "/predict")
    assert answer(f"{envoy.address}/predict") is None


@pytest.mark.e2e
def test_routing_without_envoy_is_one_sentence(tmp_path, processes):
    with pytest.raises(ServiceFailed, match="envoy does not answer"):
        Envoy(Home(tmp_path), processes, free_port()).route({})
