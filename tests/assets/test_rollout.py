import json
import time
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from pipelines.assets.common import Chapter
from pipelines.assets.review import _gather_logs
from pipelines.assets.rollout import ROLLOUT_TAG, _needed_users
from pipelines.components import ServedModel
from pipelines.components.rollout_sensor import rollout_sensor
from pipelines.core.home import Home
from pipelines.core.release import Release
from pipelines.core.rollout import controller
from pipelines.core.rollout.answers import Answers
from pipelines.core.rollout.experiment import Experiment
from pipelines.core.rollout.plan import Plan
from pipelines.core.rollout.standing import Rollout
from pipelines.core.rollout.watch import Measure
from pipelines.core.spec import MetricSpec, RolloutSpec
from tests.assets.world import SETTINGS, World
from tests.bentos.tiny import CONTRACT, ROW
from tests.gateways.test_telemetry import answer

SCORE = 'SELECT release_id, "user", output_probability AS value FROM predictions WHERE row = 0'
OTHER = (0.5, 1.5, -1.01)
"""Weights as good as those of the first version."""


@pytest.fixture(scope="module")
def tried(tmp_path_factory) -> World:
    """Version 1 serves; version 2 is being rolled out, and nobody waits for it."""
    made = World(tmp_path_factory.mktemp("tried"))
    made.settings["rollout"] = {
        "strategy": ["shadow", "canary", "full"], "weights": [0.25], "follow_seconds": 0, "alpha": 0.01,
        "metrics": [{"name": "late", "better": "lower", "margin": 0.1, "sql": "SELECT 1 AS value"}],
    }  # fmt: skip
    assert made.release().success
    made.deployments.outcome = None
    assert made.release(OTHER).success
    return made


def ask_sensor(world: World):
    chapter = Chapter(ServedModel(**world.settings))
    return rollout_sensor(chapter, "tiny_rollout")(
        dg.build_sensor_context(resources={"home": world.home, "ledger": world.ledger})
    )


def test_a_rollout_begins_with_all_that_its_process_needs(tried):
    assert tried.serving == "1"
    begun = tried.ledger.standing("tiny").rollouts[0]
    assert [str(step) for step in begun.plan.steps] == ["shadow at 100 %", "canary at 25 %", "full at 100 %"]
    assert (
        begun.plan == Plan.from_dict(json.loads(json.dumps(begun.plan.to_dict())))
        and begun.plan.alpha == 0.01
    )
    bins = Answers.from_dict(begun.setting["answers"])
    assert bins.output == "probability" and 5 <= len(bins.edges) <= 25
    assert begun.setting["standby_seconds"] == 3600 and begun.setting["metrics"][0]["name"] == "late"
    limits = begun.canary.limits
    assert limits.max_requests >= 64 and limits.max_body_bytes == 16 * 2**20
    assert begun.canary.registered == "tiny"


def test_one_that_outlasts_its_run_is_inconclusive_until_it_is_recorded(tried):
    assert isinstance(ask_sensor(tried), dg.SkipReason)
    begun = tried.ledger.standing("tiny").rollouts[0]
    tried.deployments.conclude(begun.canary, begun.number, "promoted")
    request = ask_sensor(tried)
    assert isinstance(request, dg.RunRequest)
    assert (request.partition_key, request.tags[ROLLOUT_TAG]) == ("2", str(begun.number))
    ended = tried.definitions.resolve_job_def("tiny_rollout").execute_in_process(
        instance=tried.instance, partition_key="2", tags=dict(request.tags), raise_on_error=False
    )
    assert ended.success
    checks = {each.check_name: each for each in ended.get_asset_check_evaluations()}
    assert checks["rolled_out"].passed and "the test says promoted" in str(checks["rolled_out"].description)
    assert tried.serving == "2" and isinstance(ask_sensor(tried), dg.SkipReason)
    assert [each.action for each in tried.ledger.history("tiny")][-2:] == ["promoted", "alias_moved"]


def test_one_that_did_harm_fails_its_check_and_changes_nothing(tried):
    tried.deployments.outcome, before = "rolled_back", tried.serving
    outcome = tried.release((0.5, 1.5, -0.99))
    assert not outcome.checks["rolled_out"].passed
    assert "the test says rolled_back" in outcome.says("rolled_out")
    assert outcome.checks["healthy"].passed and tried.serving == before


def test_an_experiment_says_beforehand_how_many_users_it_takes(tmp_path):
    """By the deviation that stable had, else by the limits."""

    def needed(sql: str = SCORE, margin: float = 0.02, **how) -> int | None:
        metric = {"name": "late", "better": "lower", "margin": margin, "sql": sql, **how}
        spec = RolloutSpec(strategy=["ab"], metrics=[MetricSpec(**metric)])
        step = (spec.plan() or pytest.fail("it has a step")).steps[0]
        return _needed_users(Home(tmp_path), spec, release("1"), step, 0.05)["late"]

    assert needed() is None
    worst, fewer = needed(between=[0, 1]), needed(margin=0.04, between=[0, 1])
    assert worst and fewer and 20_000 < worst < 100_000 and 3 < worst / fewer < 5
    answered(tmp_path, "1", 0.5, users=150)
    known = needed()
    assert known and needed(between=[0, 1]) == known < worst / 10
    assert needed(SCORE.replace("probability", "absent")) is needed(margin=0) is None


def test_an_experiment_is_analysed_by_user_for_each_metric(tmp_path):
    settings = {**SETTINGS, "rollout": {"strategy": ["ab"], "stratify_by": "input_carrier"}}
    chapter, home = Chapter(ServedModel(**settings)), Home(tmp_path)
    for version, score in (("1", 0.2), ("2", 0.7)):
        answered(tmp_path, version, score, users=150)
    plan = chapter.spec.rollout.plan()
    assert plan
    metrics = {"score": SCORE, "rows": SCORE.replace('"user",', ""), "typo": "SELEC"}
    setting = {
        "metrics": [Measure(name, sql).to_dict() for name, sql in metrics.items()],
        "needed_users": {"score": 300, "rows": None},
    }
    state = controller.start(plan, time.time() - 60).state
    rollout = Rollout(2, "", release("2"), release("1"), plan, replace(state, at=time.time() + 60), setting)
    _gather_logs(chapter, home, CONTRACT, rollout, tmp_path)
    found = Experiment.load(tmp_path)
    assert [each.metric for each in found.analyses] == ["score", "mean probability"]
    for each, effect in zip(found.analyses, (0.5, 0.25), strict=True):  # of two rows, the second is the same
        assert (each.users, [one.name for one in each.strata]) == (300, [ROW["carrier"]])
        assert each.overall.value == pytest.approx(effect, abs=0.02)
    assert [each.needed for each in found.analyses] == [300, None]
    assert found.missing["rows"] == "its table has no column user"
    assert found.missing["typo"].startswith("DuckDB refuses typo")


def release(version: str) -> Release:
    return Release("tiny", version, f"v{version}", "fp32", f"tiny:v{version}", "/tiny", "")


def answered(root: Path, version: str, mean: float, users: int) -> None:
    """A request of each user."""
    scores = np.random.default_rng(1).normal(mean, 0.05, users)
    names = tuple(f"{version}-{at}" for at in range(users))
    answer(Home(root), f"v{version}", list(scores), names)


def test_full_alone_takes_over_at_once(tried):
    world = World(tried.root / "at_once")
    world.settings["rollout"] = {"strategy": ["full"]}
    for weights in ((0.5, 1.5, -1.0), OTHER):
        assert world.release(weights).success
    assert world.serving == "2" and world.ledger.standing("tiny").rollouts == ()
