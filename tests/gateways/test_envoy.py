import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from pipelines.core.errors import PortTaken, ServiceFailed
from pipelines.core.home import Home
from pipelines.core.rollout.routes import Limits, Route, Target
from pipelines.gateways.envoy import Envoy
from tests.fakes.envoy import FakeRouter
from tests.fakes.processes import FakeProcesses
from tests.gateways.envoy_client import Client, answer, free_port
from tests.until import until

NOBODY = Target("nobody", 70000)  # no such port


@pytest.fixture(params=["fake", pytest.param("envoy", marks=pytest.mark.e2e)])
def router(request):
    return FakeRouter() if request.param == "fake" else request.getfixturevalue("envoy")


def told(url: str) -> tuple[int, str | None, str]:
    found = answer(url)
    assert found
    return found.status, found.release, found.body


def test_router_sends_requests_to_its_target(router, pair):
    router.ensure()
    assert router.routes() == {}
    router.route({"/": Route(pair[0])})
    assert router.routes() == {"/": Route(pair[0])}
    assert told(f"{router.address}/predict") == (200, "old", "/predict")
    assert router.healthy(pair[0])
    assert router.in_flight(pair[0]) == 0


def test_other_paths_are_left_alone(router, pair):
    one, two = map(Route, pair)
    router.route({"/": one, "/churn": one})
    router.route({"/churn": two, "/delay": two})
    assert router.routes() == {"/": one, "/churn": two, "/delay": two}
    router.route({"/churn": None, "/never": None})
    assert router.routes() == {"/": one, "/delay": two}


def test_target_that_does_not_answer_leaves_the_routes(router, pair):
    route = Route(pair[0])
    router.route({"/": route})
    router.answer_seconds = 0.4
    dead = Target("r3", free_port())
    for tried in (Route(dead), Route(pair[0], canary=dead, weight=0.5), Route(pair[0], standby=dead)):
        with pytest.raises(ServiceFailed, match="healthy"):
            router.route({"/": tried})
    assert router.routes() == {"/": route}
    assert not router.healthy(dead)
    assert told(f"{router.address}/predict") == (200, "old", "/predict")


@pytest.mark.e2e
def test_longest_prefix_wins_and_is_cut_off(envoy, pair):
    one, two = map(Route, pair)
    envoy.route({"/": one, "/churn": two, "/churn/delay": one})
    expected = {
        "/predict": ("old", "/predict"),
        "/churn": ("new", "/"),
        "/churn/predict": ("new", "/predict"),
        "/churn/delay/v2/models": ("old", "/v2/models"),
        "/churning": ("old", "/churning"),
    }
    assert {path: told(envoy.address + path)[1:] for path in expected} == expected


@pytest.mark.e2e
def test_a_request_keeps_its_id_or_gets_one(envoy, pair):
    envoy.route({"/churn": Route(pair[0])})
    for given in ({"x-request-id": "order-17"}, {}):
        found = Client(envoy.address).ask("/churn/v2/models/churn/infer", None, **given)
        assert found.body == "/v2/models/churn/infer"
        assert found.headers["x-request-id"] == given.get("x-request-id", found.headers["x-request-id"])


@pytest.mark.e2e
def test_without_routes_it_answers_at_once(envoy):
    assert told(f"{envoy.address}/predict") == (404, None, '{"error":"no model answers at this path"}\n')


@pytest.mark.e2e
def test_refused_clusters_keep_the_old_routes(envoy, pair):
    route = Route(pair[0])
    envoy.route({"/": route})
    files = {file: file.read_text() for file in envoy.files.paths.values()}
    with pytest.raises(ServiceFailed, match=r"refused the clusters.*PortValue"):
        envoy.route({"/": Route(NOBODY)})
    assert {file: file.read_text() for file in envoy.files.paths.values()} == files
    assert told(f"{envoy.address}/predict") == (200, "old", "/predict")
    envoy.route({"/churn": route})
    assert told(f"{envoy.address}/churn/predict") == (200, "old", "/predict")


@pytest.mark.e2e
def test_refused_routes_keep_the_old_ones(envoy, pair):
    route = Route(pair[0])
    envoy.route({"/": route})
    with pytest.raises(ServiceFailed, match="refused the routes"):
        envoy.route({"/": Route(pair[1], limits=Limits(answer_seconds=-1))})
    assert envoy.routes() == {"/": route}
    assert told(f"{envoy.address}/predict") == (200, "old", "/predict")


@pytest.mark.e2e
def test_request_in_flight_is_counted_and_goes_on(envoy, pair):
    first, second = pair
    envoy.route({"/": Route(first)})
    answers = []
    slow = threading.Thread(target=lambda: answers.append(told(f"{envoy.address}/slow?seconds=1.5")))
    slow.start()
    until(lambda: envoy.in_flight(first) == 1)
    envoy.route({"/": Route(second)})
    assert told(f"{envoy.address}/predict")[1] == "new"
    assert envoy.in_flight(first) == 1
    slow.join()
    assert answers == [(200, "old", "/slow")]
    assert envoy.in_flight(first) == 0
    envoy.route({})
    assert {host.port for hosts in envoy.admin.hosts().values() for host in hosts} == {second.port}


@pytest.mark.e2e
def test_processes_that_route_at_once_lose_nothing(envoy, pair):
    program = (
        "import sys; from pathlib import Path; from pipelines.core.home import Home\n"
        "from pipelines.core.rollout.routes import Route, Target\n"
        "from pipelines.gateways.envoy import Envoy\n"
        "from tests.fakes.processes import FakeProcesses\n"
        "home, port, name, target = sys.argv[1:]\n"
        "envoy = Envoy(Home(Path(home)), FakeProcesses(Path(home)), int(port))\n"
        "[envoy.route({f'/{name}{each}': Route(Target('r1', int(target)))}) for each in range(4)]"
    )
    home, target = str(envoy.folder.parents[1]), str(pair[0].port)
    command = [sys.executable, "-c", program, home, str(envoy.port)]
    running = [subprocess.Popen([*command, name, target]) for name in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    paths = {f"/{name}{each}" for name in "ab" for each in range(4)}
    assert set(envoy.routes()) == paths
    assert {told(envoy.address + path)[1] for path in paths} == {"old"}


@pytest.mark.e2e
def test_a_change_that_was_cut_short_is_undone_by_the_next(envoy, pair):
    envoy.route({"/": Route(pair[0])})
    envoy.files.write_routes({}, {})
    until(lambda: told(envoy.address)[0] == 404)
    envoy.ensure()
    assert told(envoy.address)[1] == "old"


@pytest.mark.e2e
def test_settings_that_are_refused_leave_what_serves(envoy, pair, monkeypatch):
    envoy.route({"/": Route(pair[0])})
    moved = Envoy(Home(envoy.folder.parents[1]), envoy.processes, envoy.port)
    with monkeypatch.context() as patch, pytest.raises(ServiceFailed, match="envoy refuses its settings"):
        patch.setattr("pipelines.gateways.envoy_config.HEADERS_SECONDS", -1)
        moved.ensure()
    assert told(envoy.address)[1] == "old"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        moved = Envoy(Home(envoy.folder.parents[1]), envoy.processes, other.getsockname()[1])
        with pytest.raises(PortTaken):
            moved.ensure()
    assert told(envoy.address)[1] == "old"
    envoy.ensure()


@pytest.mark.e2e
def test_taken_port_is_one_sentence(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port, processes = other.getsockname()[1], FakeProcesses(tmp_path)
        with pytest.raises(PortTaken, match=f"Port {port} .* set SEATRIAL_PORT"):
            Envoy(Home(tmp_path), processes, port).ensure()
    assert processes.states() == {}


@pytest.mark.e2e
def test_restart_goes_on_with_the_last_routes(envoy, processes, pair):
    envoy.route({"/": Route(*pair, weight=1.0)})
    os.kill(processes.children["envoy"].pid, signal.SIGKILL)
    processes.children["envoy"].wait()
    with pytest.raises(ServiceFailed, match="envoy does not answer"):
        envoy.healthy(pair[0])
    with pytest.raises(ServiceFailed, match="envoy does not answer"):
        envoy.route({})
    envoy.ensure()
    assert told(f"{envoy.address}/predict") == (200, "new", "/predict")
    pid = processes.children["envoy"].pid
    envoy.ensure()
    assert processes.children["envoy"].pid == pid


@pytest.mark.e2e
def test_two_routers_are_beside_each_other_and_one_can_move(envoy, tmp_path, processes, pair):
    envoy.route({"/": Route(pair[0])})
    rehearsal = Envoy(Home(tmp_path), processes, free_port(), name="rehearsal")
    rehearsal.ensure()
    rehearsal.route({"/": Route(pair[1])})
    moved = Envoy(Home(tmp_path), processes, free_port(), name="rehearsal")
    moved.ensure()
    assert told(f"{envoy.address}/predict")[1] == "old"
    assert told(f"{moved.address}/predict")[1] == "new"
    assert answer(f"{rehearsal.address}/predict") is None
    processes.stop("rehearsal")
