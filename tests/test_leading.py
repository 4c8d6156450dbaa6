"""The process that leads rollouts, look by look: real decisions, made-up counts."""

import json
from dataclasses import dataclass, field

import pytest

from pipelines.controller import Aside, Controller
from pipelines.core.errors import ServiceFailed
from pipelines.core.home import Home
from pipelines.core.rollout.guardrails import ErrorRate, Metric, Predictions, Split
from pipelines.core.rollout.observation import Arm, Moments
from pipelines.core.rollout.plan import Plan
from pipelines.core.rollout.strategies import canary
from pipelines.gateways.deployments import Deployments
from pipelines.gateways.journal import Journal
from tests.fakes.envoy import FakeRouter
from tests.fakes.ledger import FakeLedger
from tests.fakes.processes import FakeProcesses
from tests.fakes.telemetry import FakeTelemetry, Pair
from tests.gateways.test_deployments import ScriptStore, release

GUARDRAILS = (ErrorRate(0.01), Split())
PACE = {"min_requests": 100, "min_seconds": 5.0, "max_seconds": 60.0}
PLAN = canary((0.1, 0.5), GUARDRAILS, **PACE)
GOOD: Pair = (Arm(45_000, 45), Arm(5000, 5))
HALF: Pair = (Arm(25_000, 25), Arm(25_000, 25))


@dataclass
class World:
    """r2 beside r1, and a clock that a test moves."""

    lead: Controller
    router: FakeRouter
    ledger: FakeLedger
    telemetry: FakeTelemetry
    journal: Journal
    now: float = field(default=0.0)

    def look(self, seconds: float) -> None:
        self.now += seconds
        self.lead.turn()

    @property
    def actions(self) -> list[str]:
        return [each.action for each in self.ledger.history("churn")]

    @property
    def outcome(self) -> str | None:
        return self.ledger.standing("churn").rollouts[-1].outcome

    @property
    def weight(self) -> float:
        return self.router.routes()["/"].weight


@pytest.fixture
def begun(tmp_path):
    """Begin the rollout of r2; the telemetry says `pairs`."""
    processes, router, ledger = FakeProcesses(tmp_path / "logs"), FakeRouter(), FakeLedger()
    deployments = Deployments(processes, router, ScriptStore(), ledger, ready_seconds=20)

    def begin(*pairs: Pair, plan: Plan = PLAN, setting=None) -> World:
        deployments.take_over(release("r1"))
        deployments.begin(release("r2"), plan, setting or {})
        telemetry, journal = FakeTelemetry({"churn": list(pairs)}), Journal(Home(tmp_path))
        lead = Controller(deployments, telemetry, journal, clock=lambda: world.now)
        world = World(lead, router, ledger, telemetry, journal)
        world.now = ledger.standing("churn").rollouts[-1].state.since
        return world

    yield begin
    processes.shutdown()


def test_harmless_steps_lead_to_production(begun):
    world = begun(GOOD, HALF)
    world.look(6)
    assert world.weight == 0.5 and world.actions[-1] == "moved"
    world.look(6)
    assert world.outcome == "promoted" and world.router.routes()["/"].stable.release_id == "r2"
    world.look(6)
    assert world.actions == ["deployed", "started", "moved", "promoted"]


def test_harm_is_taken_back_at_the_look_that_shows_it(begun):
    world = begun((Arm(9000, 9), Arm(1000, 60)))
    world.look(1)
    assert (world.outcome, world.weight) == ("rolled_back", 0.0)
    assert list(world.lead.deployments.processes.states()) == ["churn-r1"]


LABELS = (*GUARDRAILS, Metric("late", "lower", 0.01, between=(0, 1)))
MISSING = {
    "no traffic": ((Arm(0, 0), Arm(0, 0)), PLAN),
    "one request a second": ((Arm(54, 0), Arm(6, 0)), PLAN),
    "no metrics of either": ((None, None), PLAN),
    "no metrics of stable": ((None, Arm(1000, 0)), PLAN),
    "all with stable": ((Arm(10_000, 0), Arm(0, 0)), PLAN),
    "split off plan": ((Arm(5000, 0), Arm(5000, 0)), PLAN),
    "no answers to compare": (GOOD, canary((0.1,), (*GUARDRAILS, Predictions(0.1)), **PACE)),
    "no labels": (GOOD, canary((0.1,), LABELS, **PACE)),
    "labels are NaN": (
        tuple(
            Arm(a.requests, a.errors, metrics={"late": Moments(500, float("nan"), 1.0)}) for a in GOOD if a
        ),
        canary((0.1,), LABELS, **PACE),
    ),
    "more errors than requests": ((Arm(9000, 9), Arm(1000, 1001)), PLAN),
}


@pytest.mark.parametrize("what", MISSING)
def test_what_is_missing_holds_and_is_rolled_back_at_its_deadline(begun, what):
    pair, plan = MISSING[what]
    world = begun(pair, plan=plan)
    for _ in range(9):
        world.look(6)
        assert world.outcome is None and world.weight == 0.1
    world.look(6)
    assert world.outcome == "rolled_back" and world.weight == 0.0
    assert "still uncertain" in world.ledger.standing("churn").rollouts[-1].state.why


def test_a_canary_that_is_gone_is_waited_for_and_then_given_up(begun):
    world = begun((Arm(200, 0), Arm(20, 0)))
    world.look(1)
    world.lead.deployments.processes.stop("churn-r2")
    for _ in range(5):
        world.look(2)
        assert world.outcome is None
    world.look(2)
    assert world.outcome == "rolled_back"
    assert "the canary has been gone for 10 seconds" in world.ledger.history("churn")[-1].details["why"]


def test_a_router_that_does_not_answer_is_nothing_known(begun):
    world = begun(GOOD)
    world.router.gone = True
    world.look(6)
    assert world.outcome is None and world.journal.latest("churn")["canary"] is None
    world.router.gone = False
    world.look(1)
    assert world.weight == 0.5


def test_counts_that_cannot_be_made_are_nothing_known(begun, caplog, monkeypatch):
    world = begun(GOOD)

    def look(watch, now):
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr(world.telemetry, "look", look)
    for _ in range(9):
        world.look(6)
        assert world.outcome is None
    world.look(6)
    assert world.outcome == "rolled_back"
    assert caplog.text.count("ZeroDivisionError: nobody thought of this") == 2, "once, with its traceback"


def test_another_process_goes_on_where_the_first_was_killed(begun):
    world = begun(GOOD, HALF)
    world.look(6)
    second = Controller(world.lead.deployments, world.telemetry, world.journal, clock=lambda: world.now)
    assert second.states == {}
    world.lead = second
    world.look(6)
    assert world.outcome == "promoted"


def test_a_person_may_decide_between_two_looks(begun):
    world = begun((Arm(200, 0), Arm(20, 0)))
    world.look(1)
    world.lead.deployments.roll_back("churn", "lunch")
    world.look(1)
    assert world.actions == ["deployed", "started", "rolled_back"] and world.weight == 0.0


def test_trouble_with_one_model_does_not_keep_others_waiting(begun, caplog, monkeypatch):
    world = begun(GOOD)
    world.ledger.append("absent", "alias_moved", after=0)
    real = world.lead.deployments.apply

    def apply(model: str) -> None:
        if model == "absent":
            raise ServiceFailed("absent", "is not there")
        real(model)

    monkeypatch.setattr(world.lead.deployments, "apply", apply)
    for _ in range(3):
        world.look(3)
    assert world.weight == 0.5
    assert [each.getMessage() for each in caplog.records if "absent" in each.getMessage()] == [
        "absent: The service absent is not there; its log is below serving/logs."
    ]


def test_a_watch_is_told_what_the_rollout_was_begun_with(begun):
    answers = {"output": "p", "edges": [0.5], "reduced": "value"}
    metric = {"name": "late", "sql": "SELECT 1", "function": None, "files": {}, "every_seconds": 30.0}
    world = begun(GOOD, setting={"answers": answers, "metrics": [metric]})
    world.look(1)
    (watch,) = world.telemetry.watched
    assert (watch.kind, watch.label) == ("canary", "churn/2/0") and watch.since == world.now - 1
    assert watch.answers.edges == (0.5,) and watch.measures[0].name == "late"
    assert (watch.stable.release_id, watch.canary.release_id) == ("r1", "r2")


def test_looks_are_kept_and_thinned(begun):
    world = begun((Arm(200, 0), Arm(20, 0)))
    world.telemetry.said["churn"] = {"late": "the labels are not there"}
    for _ in range(40):
        world.look(0.1)
    lines = world.journal.path("churn", 2).read_text().splitlines()
    assert 3 <= len(lines) <= 6
    last = world.journal.latest("churn")
    assert last["canary"] == {"requests": 20, "errors": 0} and last["state"]["weight"] == 0.1
    assert last["troubles"] == {"late": "the labels are not there"}
    assert [each["name"] for each in json.loads(lines[0])["findings"]] == ["error_rate", "split"]


def test_services_are_ended_beside_the_looks(caplog):
    aside, done = Aside(), []

    def fails() -> None:
        raise ServiceFailed("churn-r1", "does not end")

    aside(fails)
    aside._pool.submit(lambda: None).result()
    aside(lambda: done.append("ended"))
    aside._pool.submit(lambda: None).result()
    assert done == ["ended"] and "does not end" in caplog.text
