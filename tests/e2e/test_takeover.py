"""Releases take over from each other behind a real Envoy and supervisord while clients keep asking."""

import http.client
import os
import signal
import threading
import time

import pytest

from pipelines.core.errors import ServiceFailed
from pipelines.core.home import Home
from pipelines.gateways.deployments import Deployments
from pipelines.gateways.envoy import Envoy
from pipelines.gateways.ledger import open_ledger
from pipelines.gateways.processes import Supervisor
from pipelines.gateways.services import free_port
from tests.gateways.test_deployments import ScriptStore, get, release

pytestmark = pytest.mark.e2e

CLIENTS, REQUESTS = 8, 2000


class Load:
    """Clients that ask without a pause while the block runs, and on until there were REQUESTS: some keep
    their connection, some open a new one each time. `releases` counts who answered."""

    def __init__(self, port: int) -> None:
        self.port, self.over = port, threading.Event()
        self.answers: list[tuple[int, str | None]] = []
        self.failures: list[str] = []
        self.clients = [threading.Thread(target=self._ask, args=(n % 2 == 0,)) for n in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_) -> None:
        deadline = time.monotonic() + 60
        while len(self.answers) < REQUESTS and time.monotonic() < deadline:
            time.sleep(0.05)  # the clients answer to nobody; only their count tells how far they are
        self.over.set()
        for client in self.clients:
            client.join()

    def _ask(self, keep: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.over.is_set():
            try:
                connection.request("POST", "/predict", b"[1, 2, 3]")
                response = connection.getresponse()
                response.read()
                self.answers.append((response.status, response.headers["x-release-id"]))
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            if not keep:
                connection.close()
        connection.close()

    @property
    def releases(self) -> set[str | None]:
        return {release_id for _, release_id in self.answers}

    @property
    def failed(self) -> list:
        return self.failures + [answer for answer in self.answers if answer[0] != 200]


@pytest.fixture
def deployments(tmp_path):
    home = Home(tmp_path)
    supervisor = Supervisor(home)
    router = Envoy(home, supervisor, free_port())
    made = Deployments(supervisor, router, ScriptStore(), open_ledger(None, home), ready_seconds=60)
    yield made
    made.down()


def port(deployments: Deployments) -> int:
    return int(deployments.router.address.rpartition(":")[2])


def test_four_take_overs_cost_no_request(deployments):
    deployments.take_over(release("r1"))
    with Load(port(deployments)) as load:
        for each in ("r2", "r3", "r4"):
            deployments.take_over(release(each))
        deployments.take_over(release("r2"))
    assert load.failed == []
    assert len(load.answers) >= REQUESTS
    assert load.releases == {"r1", "r2", "r3", "r4"}
    assert set(deployments.processes.states()) == {"envoy", "churn-r2"}


def test_failing_release_costs_no_request(deployments):
    deployments.take_over(release("r1"))
    with Load(port(deployments)) as load:
        with pytest.raises(ServiceFailed, match="the model file is broken"):
            deployments.take_over(release("r2", mode="dies"))
        deployments.ready_seconds = 2
        with pytest.raises(ServiceFailed, match="was not ready"):
            deployments.take_over(release("r3", mode="unready"))
    assert load.failed == []
    assert load.releases == {"r1"}
    assert set(deployments.processes.states()) == {"envoy", "churn-r1"}


def test_production_comes_back_after_down(deployments):
    deployments.take_over(release("r1", path="/churn"))
    deployments.take_over(release("d1", model="delay", path="/delay"))
    deployments.down()
    assert deployments.processes.states() == {}
    for model in ("churn", "delay"):
        deployments.ensure(model)
    assert get(f"{deployments.router.address}/churn/predict") == ("r1", "/predict")
    assert get(f"{deployments.router.address}/delay/predict") == ("d1", "/predict")
    assert deployments.status("churn")["ready"]


def test_production_comes_back_after_the_supervisor_was_killed(deployments):
    deployments.take_over(release("r1"))
    os.kill(int((deployments.processes.folder / "supervisord.pid").read_text()), signal.SIGKILL)
    while deployments.processes.states():
        time.sleep(0.02)  # until the killed supervisor no longer answers
    deployments.ensure("churn")
    assert get(f"{deployments.router.address}/predict")[0] == "r1"
    assert set(deployments.processes.states()) == {"envoy", "churn-r1"}
