"""Plans as data: which are possible, and that JSON keeps them."""

import json
from dataclasses import replace

import pytest

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.guardrails import ErrorRate, Metric, Split
from pipelines.core.rollout.plan import FULL, Plan, Step
from pipelines.core.rollout.strategies import GUARDRAILS, ab, blue_green, canary, in_order, shadow

ERRORS = (ErrorRate(0.01),)
STEP = Step("canary", 0.1, ERRORS)


def described(plan: Plan) -> str:
    return " → ".join(f"{step.kind} {step.weight:g}" for step in plan.steps)


@pytest.mark.parametrize(
    "plan, says",
    [
        (canary(), "canary 0.05 → canary 0.2 → canary 0.5 → full 1"),
        (canary((0.3,)), "canary 0.3 → full 1"),
        (blue_green(), "blue_green 1 → full 1"),
        (shadow(0.5), "shadow 0.5"),
        (ab(0.2), "ab 0.2"),
        (
            in_order(["shadow", "canary", "full"]),
            "shadow 1 → canary 0.05 → canary 0.2 → canary 0.5 → full 1",
        ),
        (in_order(["shadow", "blue_green", "full"]), "shadow 1 → blue_green 1 → full 1"),
        (
            in_order(["canary", "ab", "full"]),
            "canary 0.05 → canary 0.2 → canary 0.5 → ab 0.5 → full 1",
        ),
        (in_order(["shadow", "ab"]), "shadow 1 → ab 0.5"),
    ],
)
def test_the_usual_plans(plan, says):
    assert described(plan) == says


def test_pace_is_that_of_each_step():
    plan = canary((0.1, 0.5), ERRORS, alpha=0.01, min_seconds=5, prove=())
    assert plan.alpha == 0.01 and {step.min_seconds for step in plan.steps[:-1]} == {5}
    assert not plan.steps[0].must_prove("error_rate") and canary().steps[0].must_prove("error_rate")
    assert ab(max_seconds=10**6).steps[0].min_seconds == 7 * 24 * 3600


def test_a_shadow_serves_nobody():
    step = shadow(0.25).steps[0]
    assert (step.users, step.mirrored, step.canary_share) == (0, 0.25, 0.2)
    assert (STEP.users, STEP.mirrored, STEP.canary_share) == (0.1, 0, 0.1)


def test_alpha_is_spent_once_over_all_steps_that_judge():
    for plan in (canary(), shadow(), in_order(["shadow", "canary", "full"])):
        judging = [step for step in plan.steps if step.guardrails]
        assert plan.alpha_of_step * len(judging) == pytest.approx(plan.alpha)
    assert canary(max_seconds=100).max_seconds == 300


def test_plans_survive_json():
    metric = Metric("converted", "higher", 0.05, between=(0, 1))
    plans = [in_order([kind, "full"]) for kind in ("shadow", "canary", "ab", "blue_green")]
    plans += [shadow(0.1), ab(0.2, (metric, *GUARDRAILS), prove=("converted",)), canary(alpha=0.2)]
    for plan in (*plans, replace(canary(), grace_seconds=3.0, max_age_seconds=4.0)):
        kept = json.dumps(plan.to_dict(), allow_nan=False)
        assert Plan.from_dict(json.loads(kept)) == plan


def test_a_plan_may_be_written_by_hand():
    errors = [{"guardrail": "error_rate", "max_increase": 0.01}]
    steps = [{"kind": "canary", "weight": 0.1, "guardrails": errors}, {"kind": "full", "weight": 1}]
    assert Plan.from_dict({"steps": steps}) == Plan((STEP, FULL))


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda: Step("canry", 0.1), "kind is 'canry'; write one of shadow, canary, ab, blue_green, full."),  # type: ignore
        (lambda: Step("canary", 0), "weight is 0; some users, not all, get a canary; write 0.05, say."),
        (lambda: Step("canary", 5), "weight is 5; some users, not all, get a canary; write 0.05, say."),
        (
            lambda: Step("canary", float("nan")),
            "weight is nan; some users, not all, get a canary; write 0.05, say.",
        ),
        (lambda: Step("shadow", 1.5), "weight is 1.5; a shadow mirrors more than 0 and at most all, 1."),
        (
            lambda: Step("ab", 1),
            "weight is 1; both sides of an A/B need users; write a fraction such as 0.5.",
        ),
        (lambda: Step("blue_green", 0.5), "weight is 0.5; blue_green moves all users at once; write 1."),
        (lambda: Step("full", 0.5), "weight is 0.5; full is all users; write 1."),
        (lambda: Step("canary", 0.1), "guardrails is []; canary needs one that compares the releases."),
        (
            lambda: Step("ab", 0.1, (Split(),)),
            "guardrails is ['split']; ab needs one that compares the releases.",
        ),
        (
            lambda: Step("full", 1, ERRORS),
            "guardrails is ['error_rate']; full has nothing to compare with; leave them out.",
        ),
        (
            lambda: Step("blue_green", 1, (*ERRORS, Split())),
            "guardrails is ['error_rate', 'split']; leave out split; blue_green has none.",
        ),
        (
            lambda: Step("canary", 0.1, ERRORS * 2),
            "guardrails is ['error_rate', 'error_rate']; name each only once.",
        ),
        (
            lambda: replace(STEP, prove=("errors",)),
            "prove is 'errors'; write names of its guardrails: error_rate.",
        ),
        (lambda: replace(STEP, min_requests=0), "min_requests is 0; write a whole number above 0."),
        (lambda: replace(STEP, min_seconds=0), "min_seconds is 0; write seconds above 0."),
        (lambda: replace(STEP, max_seconds=10), "max_seconds is 10; write at least min_seconds, 60."),
        (
            lambda: replace(STEP, max_seconds=float("inf")),
            "max_seconds is inf; write at least min_seconds, 60.",
        ),
        (lambda: Plan(()), "steps is []; begin with a step that judges."),
        (lambda: Plan((FULL,)), "steps is ['full']; begin with a step that judges."),
        (lambda: Plan((STEP,)), "steps is ['canary']; end with full, or with shadow or ab for an experiment"),
        (
            lambda: Plan((STEP, FULL, FULL)),
            "steps is ['canary', 'full', 'full']; nothing can come after full.",
        ),
        (lambda: Plan((STEP, FULL), alpha=5), "alpha is 5; write a fraction such as 0.05."),
        (lambda: Plan((STEP, FULL), grace_seconds=-1), "grace_seconds is -1; write seconds from 0 on."),
        (lambda: canary((0.2, 0.1)), "weights is [0.2, 0.1]; no step may take users back to stable."),
        (
            lambda: canary((0.2, 0.2)),
            "weights is [0.2, 0.2]; each canary takes more users than the one before.",
        ),
        (lambda: canary(()), "steps is ['full']; begin with a step that judges."),
        (
            lambda: in_order(["canary", "shadow"]),
            "weights is [0.5, 0.0]; no step may take users back to stable.",
        ),
        (
            lambda: in_order(["bluegreen"]),
            "kind is 'bluegreen'; write one of shadow, canary, ab, blue_green, full.",
        ),
    ],
)
def test_impossible_plans_are_refused(wrong, says):
    with pytest.raises(SettingsInvalid) as refused:
        wrong()
    assert str(refused.value).startswith(says), refused.value


@pytest.mark.parametrize(
    "found, says",
    [
        ({}, "steps is []; begin with a step that judges."),
        ({"steps": "canary"}, "steps is 'canary'; write a list, each with its settings."),
        ({"steps": ["canary"]}, "steps is ['canary']; write a list, each with its settings."),
        ({"step": []}, "setting is 'step'; Plan has alpha, grace_seconds, max_age_seconds, steps."),
        ({"steps": [{"kind": "full"}]}, "Step is {'kind': 'full', 'guardrails': ()}; correct its settings: "),
        ({"steps": [{"kind": "full", "weight": "1"}]}, "weight is '1'; write a number such as 0.05."),
        ({"steps": [], "alpha": "5 %"}, "Plan is {'steps': (), 'alpha': '5 %'}; correct its settings: "),
        (
            {"steps": [{"guardrails": [{"guardrail": "p99"}]}]},
            "guardrail is 'p99'; write one of error_rate, ",
        ),
        (
            {"steps": [{"guardrails": [{"guardrail": "error_rate", "max": 1}]}]},
            "setting is 'max'; ErrorRate has max_increase.",
        ),
    ],
)
def test_what_a_person_writes_wrong_is_refused(found, says):
    with pytest.raises(SettingsInvalid) as refused:
        Plan.from_dict(found)
    assert str(refused.value).startswith(says), refused.value
