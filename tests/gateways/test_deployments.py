import sys
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest

from pipelines.core.errors import (
    LedgerUnusable,
    NothingInProduction,
    NoWayBack,
    RolloutGoesOn,
    ServiceFailed,
    SettingsInvalid,
)
from pipelines.core.release import Release
from pipelines.core.rollout.controller import advance
from pipelines.core.rollout.guardrails import ErrorRate
from pipelines.core.rollout.observation import Arm, Observation
from pipelines.core.rollout.routes import Route
from pipelines.core.rollout.strategies import canary
from pipelines.gateways.bento_store import BentoStore, BuiltBento
from pipelines.gateways.deployments import Deployments
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
    def append(self, *arguments, **named):
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
    assert [each.action for each in (first, second)] == ["deployed", "deployed"]
    assert (first.release, second.release) == (release("r1"), release("r2"))
    assert deployments.router.routes()["/"].stable.release_id == "r2"


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


def test_going_back_brings_the_former_release_and_back_again(deployments):
    for each in ("r1", "r2"):
        deployments.take_over(release(each))
    assert deployments.roll_back("churn", "it is slow") == release("r1")
    assert deployments.ledger.history("churn")[-1].action == "restored"
    assert deployments.ledger.history("churn")[-1].details == {"why": "it is slow"}
    assert get(f"{deployments.router.address}/predict")[0] == "r1"
    assert deployments.roll_back("churn", "it was not") == release("r2")


def test_another_runtime_is_another_process():
    assert release("r1").process == "churn-r1"
    assert replace(release("r1"), image="churn@sha256:1").process == "churn-r1-image"


def test_there_is_no_way_back_from_the_first_release(deployments):
    with pytest.raises(NothingInProduction):
        deployments.roll_back("churn", "why not")
    deployments.take_over(release("r1"))
    with pytest.raises(NoWayBack, match="r1 is the first release that ever served"):
        deployments.roll_back("churn", "why not")


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
    liar = replace(release("r2"), tag="churn:r7")
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
    former, asked = deployments.router.routes()["/"].stable, []

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
    serving = {path: route.stable.release_id for path, route in deployments.router.routes().items()}
    assert serving == {"/": "r2", "/delay": "d1"}


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
    assert list(deployments.router.routes()) == ["/churn"]


PLAN = canary((0.1, 0.5), (ErrorRate(0.01),), min_seconds=1, max_seconds=60, min_requests=100)


@pytest.fixture
def trying(deployments):
    """r1 serves, and r2 is being rolled out."""
    deployments.take_over(release("r1"))
    deployments.begin(release("r2"), PLAN, {"standby_seconds": 1e9})
    return deployments


def seen(deployments, errors: int):
    """The controller's next decision, ten seconds on, when the canary has answered so many with an error."""
    state = deployments.ledger.standing("churn").rollout.state
    share = PLAN.steps[state.step].canary_share
    look = Observation(10, share, Arm(5000, 0), Arm(5000, errors))
    return advance(state, PLAN, look, state.since + 10)


def test_a_rollout_begins_beside_stable(trying):
    route = trying.router.routes()["/"]
    assert (route.stable.release_id, route.canary.release_id, route.weight) == ("r1", "r2", 0.1)
    assert sorted(trying.processes.states()) == ["churn-r1", "churn-r2"]
    begun = trying.ledger.history("churn")[-1]
    assert (begun.action, begun.release, begun.rollout) == ("started", release("r2"), begun.sequence)
    assert (route.label, route.salt) == (f"churn/{begun.sequence}/0", f"churn/{begun.sequence}")
    assert trying.ledger.production("churn") == release("r1")


def test_the_same_rollout_is_left_alone_and_another_waits(trying):
    again = trying.begin(release("r2"), PLAN, {})
    assert again.number == 2 and len(trying.ledger.history("churn")) == 2
    for wrong in (lambda: trying.begin(release("r3"), PLAN, {}), lambda: trying.take_over(release("r3"))):
        with pytest.raises(RolloutGoesOn, match="r2 of churn is being rolled out"):
            wrong()
    assert sorted(trying.processes.states()) == ["churn-r1", "churn-r2"]


def test_harmless_steps_lead_to_production_with_the_former_one_on_standby(trying):
    for weight in (0.5, 0.0):
        trying.act(trying.ledger.standing("churn"), seen(trying, 0))
        assert trying.router.routes()["/"].weight == weight
    route = trying.router.routes()["/"]
    assert (route.stable.release_id, route.canary, route.standby.release_id) == ("r2", None, "r1")
    assert [each.action for each in trying.ledger.history("churn")][1:] == ["started", "moved", "promoted"]
    ready, former = route.standby, trying.processes.children["churn-r1"]
    assert trying.roll_back("churn", "on second thoughts") == release("r1")
    assert trying.router.routes()["/"].stable == ready and trying.processes.children == {"churn-r1": former}


def test_harm_leads_back_at_once(trying):
    trying.act(trying.ledger.standing("churn"), seen(trying, 500))
    route = trying.router.routes()["/"]
    assert (route.stable.release_id, route.canary, route.weight) == ("r1", None, 0.0)
    assert list(trying.processes.states()) == ["churn-r1"]
    ended = trying.ledger.standing("churn").rollouts[-1]
    assert ended.outcome == "rolled_back" and "the canary fails more often" in ended.state.why
    assert trying.ledger.history("churn")[-1].details["findings"][0]["outcome"] == "harm"


def test_harm_leads_back_even_where_it_cannot_be_recorded(trying):
    found, decision = trying.ledger.standing("churn"), seen(trying, 500)
    full = FullDiskLedger()
    full.entries = trying.ledger.entries
    trying.ledger = full
    with pytest.raises(OSError, match="full"):
        trying.act(found, decision)
    assert trying.router.routes()["/"].weight == 0.0


def test_a_person_may_end_a_rollout(trying):
    assert trying.roll_back("churn", "lunch") == release("r1")
    assert trying.ledger.standing("churn").rollouts[-1].state.why == "lunch"
    assert list(trying.processes.states()) == ["churn-r1"]


def test_a_rollout_that_was_stopped_goes_on_with_both(trying):
    trying.down()
    trying.ensure("churn")
    route = trying.router.routes()["/"]
    assert (route.stable.release_id, route.canary.release_id, route.weight) == ("r1", "r2", 0.1)
    assert get(f"http://127.0.0.1:{route.canary.port}/")[0] == "r2"


def test_weights_that_a_crash_left_behind_follow_the_ledger(trying):
    route = trying.router.routes()["/"]
    trying.router.route({"/": replace(route, weight=0.9)})
    trying.apply("churn")
    assert trying.router.routes()["/"] == route


def test_a_canary_that_is_about_to_begin_is_left_alone(deployments):
    deployments.take_over(release("r1"))
    append, looked = deployments.ledger.append, []

    def slowly(*arguments, **named):
        deployments.apply("churn")  # as the controller does, just now
        looked.append(deployments.router.routes()["/"].canary)
        return append(*arguments, **named)

    deployments.ledger.append, deployments.draining.aside = slowly, lambda work: None
    deployments.begin(release("r2"), PLAN, {})
    route = deployments.router.routes()["/"]
    assert looked == [route.canary] and (route.canary.release_id, route.weight) == ("r2", 0.1)


def test_a_canary_that_a_crash_left_behind_goes(deployments):
    deployments.take_over(release("r1"))
    current = deployments.router.routes()["/"]
    ready = deployments.services.start(release("r2"))
    deployments.router.route({"/": replace(current, canary=ready())})
    deployments.apply("churn")
    deployments.apply("churn")
    assert deployments.router.routes()["/"] == current
    assert list(deployments.processes.states()) == ["churn-r1"]


def test_routes_are_left_alone_while_production_is_being_replaced(deployments):
    deployments.take_over(release("r1"))
    next_route = Route(replace(deployments.router.routes()["/"].stable, release_id="r2"))
    deployments.router.route({"/": next_route})
    deployments.apply("churn")
    assert deployments.router.routes()["/"] == next_route
    assert list(deployments.processes.states()) == ["churn-r1"]


@pytest.mark.parametrize("mode", ["dies", "unready"])
def test_a_canary_that_does_not_become_ready_changes_nothing(deployments, mode):
    deployments.take_over(release("r1"))
    before, deployments.ready_seconds = deployments.router.routes(), 1
    with pytest.raises(ServiceFailed):
        deployments.begin(release("r2", mode=mode), PLAN, {})
    assert deployments.router.routes() == before and deployments.ledger.standing("churn").rollouts == ()
    assert list(deployments.processes.states()) == ["churn-r1"]


def test_a_rollout_needs_something_to_be_compared_with(deployments):
    with pytest.raises(NothingInProduction):
        deployments.begin(release("r1"), PLAN, {})


def test_a_rollout_is_where_stable_is(deployments):
    deployments.take_over(release("r1"))
    with pytest.raises(SettingsInvalid, match="churn serves at /; roll out there"):
        deployments.begin(release("r2", path="/churn"), PLAN, {})


def test_what_serves_already_is_not_rolled_out(deployments):
    deployments.take_over(release("r1"))
    with pytest.raises(SettingsInvalid, match="it serves all users already"):
        deployments.begin(release("r1"), PLAN, {})


def test_a_ledger_that_was_changed_begins_nothing(deployments):
    deployments.take_over(release("r1"))
    deployments.ledger.entries[0] = replace(deployments.ledger.entries[0], at="2020-01-01T00:00:00.000+00:00")
    for wrong in (
        lambda: deployments.begin(release("r2"), PLAN, {}),
        lambda: deployments.take_over(release("r2")),
    ):
        with pytest.raises(LedgerUnusable, match="entry 1 was changed"):
            wrong()
    assert list(deployments.processes.states()) == ["churn-r1"]


def test_who_follows_sees_each_change(trying):
    looks = trying.follow("churn", 2, 30)
    assert next(looks).state.weight == 0.1
    trying.act(trying.ledger.standing("churn"), seen(trying, 0))
    assert next(looks).state.weight == 0.5
    trying.roll_back("churn", "lunch")
    assert [each.outcome for each in looks] == ["rolled_back"]
