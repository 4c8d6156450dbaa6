import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from pipelines.core.errors import NothingInProduction, ServiceFailed, SettingsInvalid
from pipelines.gateways.bento_store import BentoStore, BuiltBento
from pipelines.gateways.deployments import Deployments, Release
from pipelines.gateways.envoy import Target
from pipelines.gateways.processes import Command
from tests.fakes import service
from tests.fakes.envoy import FakeRouter
from tests.fakes.ledger import FakeLedger
from tests.fakes.processes import FakeProcesses


class ScriptStore(BentoStore):
    """The tag says what runs: MODEL:RELEASE_ID or MODEL:RELEASE_ID.MODE, see tests/fakes/service.py. `logged`
    are the tags whose predictions are to be logged."""

    def __init__(self) -> None:
        self.logged: list[str] = []

    def build(self, model, manifest) -> BuiltBento:
        raise NotImplementedError("nothing is built here")

    def command(self, tag: str, port: int, *, logged: bool = False) -> Command:
        self.logged += [tag] * logged
        arguments = tag.partition(":")[2].split(".")
        return Command((sys.executable, str(Path(service.__file__)), str(port), *arguments))


class FullDiskLedger(FakeLedger):
    def record(self, model, action, release):
        raise OSError("the disk is full")


def release(release_id: str, *, model: str = "churn", path: str = "/", mode: str = "serves") -> Release:
    return Release(
        model=model,
        version=release_id.removeprefix("r"),
        release_id=release_id,
        rung="fp32",
        tag=f"{model}:{release_id}.{mode}",
        path=path,
        artifact=f"artifacts/{model}/{release_id}",
        evidence={"accuracy": 0.9},
    )


@pytest.fixture
def deployments(tmp_path):
    made = Deployments(FakeProcesses(tmp_path), FakeRouter(), ScriptStore(), FakeLedger(), ready_seconds=20)
    yield made
    made.down()


def get(url: str) -> tuple[str | None, str]:
    with urlopen(url, timeout=10) as response:
        return response.headers["x-release-id"], response.read().decode()


def test_staged_service_is_ready_and_gone_afterwards(deployments):
    with deployments.stage("churn", "churn:r1") as staged:
        assert get(f"{staged.url}/predict") == ("r1", "/predict")
        assert list(deployments.processes.states()) == ["churn.stage"]
        used = staged.usage()
        assert used.cpu_seconds > 0 and used.memory_bytes > 2**20 and used.descriptors > 3
    assert deployments.processes.states() == {}
    with pytest.raises(ServiceFailed, match="does not run"):
        staged.usage()


def test_staged_service_is_gone_after_an_error_in_the_block(deployments):
    with pytest.raises(KeyboardInterrupt), deployments.stage("churn", "churn:r1"):
        raise KeyboardInterrupt
    assert deployments.processes.states() == {}


def test_service_that_dies_is_reported_with_its_last_words(deployments):
    with (
        pytest.raises(ServiceFailed, match=r"ended before it was ready .*the model file is broken"),
        deployments.stage("churn", "churn:r1.dies"),
    ):
        pytest.fail("the service is not ready")
    assert deployments.processes.states() == {}


def test_service_that_is_never_ready_is_reported(deployments):
    deployments.ready_seconds = 1
    with (
        pytest.raises(ServiceFailed, match="was not ready within 1 s"),
        deployments.stage("churn", "churn:r1.unready"),
    ):
        pytest.fail("the service is not ready")
    assert deployments.processes.states() == {}


def test_release_takes_over_and_the_former_one_ends(deployments):
    deployments.take_over(release("r1"))
    deployments.take_over(release("r2"))
    assert list(deployments.processes.states()) == ["churn-r2"]
    assert get(f"{deployments.router.address}/predict")[0] == "r2"
    first, second = deployments.ledger.history("churn")
    assert (first.release_id, second.release_id, second.action) == ("r1", "r2", "deployed")
    assert Release.of(second) == release("r2")
    assert second.port == deployments.router.routes()["/"].port


def test_predictions_are_logged_in_production_only(deployments):
    with deployments.stage("churn", "churn:r1"):
        assert deployments.bentos.logged == []
    deployments.take_over(release("r2"))
    assert deployments.bentos.logged == ["churn:r2.serves"]


def test_same_release_is_left_alone(deployments):
    deployments.take_over(release("r1"))
    routes, child = deployments.router.routes(), deployments.processes.children["churn-r1"]
    deployments.take_over(release("r1"))
    assert deployments.router.routes() == routes
    assert deployments.processes.children == {"churn-r1": child}
    assert len(deployments.ledger.history("churn")) == 1


def test_release_that_was_routed_but_not_recorded_is_recorded(deployments):
    deployments.take_over(release("r1"))
    deployments.ledger.entries.clear()
    deployments.take_over(release("r1"))
    assert deployments.ledger.production("churn").release_id == "r1"


def test_rollback_is_recorded_as_one(deployments):
    for each in ("r1", "r2"):
        deployments.take_over(release(each))
    deployments.take_over(Release.of(deployments.ledger.history("churn")[0]), "rolled_back")
    assert deployments.ledger.production("churn").action == "rolled_back"
    assert get(f"{deployments.router.address}/predict")[0] == "r1"


@pytest.mark.parametrize("mode", ["dies", "unready"])
def test_failing_service_leaves_the_old_one_serving(deployments, mode):
    deployments.take_over(release("r1"))
    deployments.ready_seconds = 1
    with pytest.raises(ServiceFailed):
        deployments.take_over(release("r2", mode=mode))
    assert list(deployments.processes.states()) == ["churn-r1"]
    assert get(f"{deployments.router.address}/predict")[0] == "r1"
    assert deployments.ledger.production("churn").release_id == "r1"


def test_service_of_another_release_is_refused(deployments):
    liar = Release(**{**vars(release("r2")), "tag": "churn:r7"})
    with pytest.raises(ServiceFailed, match="says it is release r7 where r2 is expected"):
        deployments.take_over(liar)
    assert deployments.processes.states() == {}
    assert deployments.ledger.models() == []


def test_failing_ledger_restores_the_routes(deployments):
    deployments.take_over(release("r1"))
    routes = deployments.router.routes()
    deployments.ledger = FullDiskLedger()
    with pytest.raises(OSError, match="full"):
        deployments.take_over(release("r2"))
    assert deployments.router.routes() == routes
    assert list(deployments.processes.states()) == ["churn-r1"]


def test_busy_former_service_gets_its_time_to_drain(deployments):
    deployments.take_over(release("r1"))
    former, asked = deployments.router.routes()["/"], []

    class Draining(dict):
        def get(self, target, default=None):
            asked.append("churn-r1" in deployments.processes.states())
            return int(target == former and len(asked) < 3)

    deployments.router.waiting = Draining()
    deployments.take_over(release("r2"))
    assert asked == [True, True, True]
    assert list(deployments.processes.states()) == ["churn-r2"]


def test_service_that_a_crash_left_behind_ends(deployments):
    deployments.processes.start("churn-r0", Command((sys.executable, "-c", "import time; time.sleep(600)")))
    deployments.take_over(release("r1"))
    assert list(deployments.processes.states()) == ["churn-r1"]


def test_models_live_side_by_side(deployments):
    deployments.take_over(release("r1"))
    deployments.take_over(release("d1", model="delay", path="/delay"))
    deployments.take_over(release("r2"))
    assert sorted(deployments.processes.states()) == ["churn-r2", "delay-d1"]
    assert {path: target.release_id for path, target in deployments.router.routes().items()} == {
        "/": "r2",
        "/delay": "d1",
    }


def test_model_that_moves_leaves_its_old_path(deployments):
    deployments.take_over(release("r1"))
    deployments.take_over(release("r2", path="/churn"))
    assert list(deployments.router.routes()) == ["/churn"]


def test_path_of_another_model_is_refused(deployments):
    deployments.take_over(release("r1"))
    with pytest.raises(SettingsInvalid, match="churn answers there"):
        deployments.take_over(release("d1", model="delay"))
    assert list(deployments.processes.states()) == ["churn-r1"]


def test_production_is_started_again_after_down(deployments):
    deployments.take_over(release("r1"))
    deployments.down()
    assert not deployments.status("churn")["ready"]
    deployments.ensure("churn")
    assert get(f"{deployments.router.address}/predict")[0] == "r1"
    assert len(deployments.ledger.history("churn")) == 1


def test_nothing_to_ensure_is_one_sentence(deployments):
    with pytest.raises(NothingInProduction, match="No release of churn"):
        deployments.ensure("churn")


def test_status_tells_what_serves_where(deployments):
    assert deployments.status("churn")["release_id"] is None
    deployments.take_over(release("r1", path="/churn"))
    status = deployments.status("churn")
    assert (status["release_id"], status["state"], status["ready"]) == ("r1", "RUNNING", True)
    assert status["address"] == f"{deployments.router.address}/churn"
    assert status["path"] == "/churn"
    assert deployments.router.routes() == {
        "/churn": Target("r1", deployments.ledger.production("churn").port)
    }
