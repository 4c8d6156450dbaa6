"""What follows from a model's history: short tales, each an entry a word."""

import json
from dataclasses import replace

import pytest

from pipelines.core.entries import Entry
from pipelines.core.release import Release
from pipelines.core.rollout.controller import roll_back, start
from pipelines.core.rollout.standing import Standing, next_standing, standing
from pipelines.core.rollout.strategies import canary

PLAN = canary((0.1, 0.5))
BEGUN = start(PLAN, 1000.0).state
HALF = replace(BEGUN, step=1, weight=0.5)
BACK = roll_back(HALF, "too many errors", 1100.0).state
STATES = {"started": BEGUN, "moved": HALF, "promoted": replace(HALF, phase="promoted", weight=1.0)}
A, B, C = (Release("churn", version, f"r{version}", "fp32", "churn:1", "/", "a") for version in "123")


def told(*tale: tuple) -> list[Entry]:
    """Each an action and its release; of a rollout, as far as one goes on."""
    entries, rollout = [], None
    for number, (action, release) in enumerate(tale, 1):
        rollout = number if action == "started" else rollout
        details = {"state": STATES.get(action, BACK).to_dict()} if rollout else {}
        details |= {"plan": PLAN.to_dict(), "bins": [0.5]} if action == "started" else {}
        as_kept = json.loads(json.dumps(details))
        entries.append(Entry(number, f"at {number}", "churn", action, release, rollout, as_kept))
        rollout = None if action in ("promoted", "rolled_back", "ended") else rollout
    return entries


@pytest.mark.parametrize(
    ("tale", "production", "since", "former"),
    [
        ([], None, None, None),
        ([("deployed", A)], A, "at 1", None),
        ([("deployed", A), ("deployed", B)], B, "at 2", A),
        ([("deployed", A), ("alias_moved", A)], A, "at 1", None),
        ([("deployed", A), ("started", B), ("moved", B)], A, "at 1", None),
        ([("deployed", A), ("started", B), ("moved", B), ("promoted", B)], B, "at 4", A),
        ([("deployed", A), ("started", B), ("rolled_back", B)], A, "at 1", None),
        ([("deployed", A), ("started", B), ("ended", B)], A, "at 1", None),
        ([("deployed", A), ("deployed", B), ("restored", A)], A, "at 3", B),
        ([("deployed", A), ("deployed", B), ("restored", A), ("restored", B)], B, "at 4", A),
        ([("deployed", A), ("deployed", B), ("restored", A), ("deployed", C)], C, "at 4", A),
    ],
    ids=lambda value: " ".join(action for action, _ in value) or "nothing" if isinstance(value, list) else "",
)
def test_what_is_in_production(tale, production, since, former):
    found = standing(told(*tale))
    assert (found.production, found.since, found.former) == (production, since, former)
    assert found.last == len(tale)


def test_a_release_that_is_deployed_again_serves_on():
    newer = replace(B, evidence={"parity": "judged again"})
    found = standing(told(("deployed", A), ("deployed", B), ("deployed", newer)))
    assert (found.production, found.since, found.former) == (newer, "at 2", A)


def test_a_rollout_that_goes_on():
    rollout = standing(told(("deployed", A), ("started", B), ("moved", B))).rollout
    assert rollout and (rollout.number, rollout.started_at, rollout.outcome) == (2, "at 2", None)
    assert (rollout.canary, rollout.stable, rollout.plan, rollout.state) == (B, A, PLAN, HALF)
    assert (rollout.setting, rollout.label, rollout.salt) == ({"bins": [0.5]}, "churn/2/1", "churn/2")


@pytest.mark.parametrize("end", ["promoted", "rolled_back", "ended"])
def test_rollouts_that_are_over(end):
    found = standing(told(("deployed", A), ("started", B), ("rolled_back", B), ("started", C), (end, C)))
    assert found.rollout is None
    assert [(each.number, each.canary, each.outcome) for each in found.rollouts] == [
        (2, B, "rolled_back"),
        (4, C, end),
    ]
    assert found.rollouts[0].state == BACK


def test_what_is_said_after_the_end_opens_nothing():
    entries = told(("deployed", A), ("started", B), ("rolled_back", B))
    late = Entry(4, "at 4", "churn", "moved", B, 2, {})
    found = next_standing(standing(entries), late)
    assert found.rollout is None and found.rollouts[0].state == BACK


def test_entry_by_entry_comes_to_the_same():
    entries, found = told(("deployed", A), ("started", B), ("promoted", B), ("restored", A)), Standing()
    for number, entry in enumerate(entries, 1):
        found = next_standing(found, entry)
        assert found == standing(entries[:number])
