"""A rollout read back from the files that its report gets: which step each look was at, what came of it."""

import json
from dataclasses import replace

import pytest

from pipelines.core.rollout import timeline
from pipelines.core.rollout.plan import Plan
from pipelines.core.rollout.strategies import GUARDRAILS, canary, shadow
from tests.benchmarks.rollout.worlds import BAD, GOOD
from tests.core.rollouts import BEGAN, NEW, OLD, entry, run, write

PACE = {"min_requests": 500, "min_seconds": 3}
PLAN = Plan((*shadow(1.0, GUARDRAILS, **PACE).steps, *canary((0.5,), **PACE).steps))


def test_each_look_is_at_the_step_that_it_was_counted_in(tmp_path):
    write(tmp_path, *run(PLAN, GOOD, rps=2000))
    found = timeline.load(tmp_path)
    assert found.rollout.outcome == "promoted" and (found.rollout.stable, found.rollout.canary) == (OLD, NEW)
    one, other = found.stretches
    assert (str(one.step), str(other.step)) == ("shadow at 100 %", "canary at 50 %")
    assert one.began == BEGAN and one.ended == other.began and other.ended == found.ended
    for stretch in (one, other):
        assert stretch.outcome == "did no harm" and stretch.last
        assert stretch.last.seconds == stretch.ended - stretch.began
        assert f"{stretch.step} did no harm" in stretch.why and found.looks_at(stretch)[-1] == stretch.last
    assert not found.changed and [each.action for each in found.entries][:2] == ["deployed", "started"]


def test_a_rollout_that_was_taken_back_has_the_reason(tmp_path):
    write(tmp_path, *run(canary((0.5,), **PACE), BAD["nothing but errors"]))
    (found,) = timeline.load(tmp_path).stretches
    assert found.outcome == "rolled back" and found.why.startswith("the canary fails more often")
    assert found.last and found.last.canary and found.last.canary.errors == found.last.canary.requests > 0


def test_a_rollout_that_goes_on_and_a_line_that_was_cut_off(tmp_path):
    history, lines = run(PLAN, GOOD, rps=2000)
    write(tmp_path, history[:2], lines[:3])
    with (tmp_path / timeline.LOOKS_FILE).open("a") as file:
        file.write('{"at": 17, "sta')
    found = timeline.load(tmp_path)
    (only,) = found.stretches
    assert len(found.looks) == 3 and only.outcome == timeline.GOES_ON
    assert found.state.why == lines[2]["state"]["why"] == only.why


def test_without_looks_the_ledger_tells_the_steps(tmp_path):
    history, lines = run(PLAN, GOOD, rps=2000)
    write(tmp_path, history, lines)
    (tmp_path / timeline.LOOKS_FILE).unlink()
    found = timeline.load(tmp_path)
    assert [stretch.last for stretch in found.stretches] == [None, None] and found.ended > found.began


def test_only_entries_of_the_rollout_are_kept_and_changed_ones_are_told(tmp_path):
    history, _ = run(canary((0.5,), **PACE), BAD["nothing but errors"])
    later = replace(entry(history, BEGAN + 900, "restored", OLD), rollout=None)
    timeline.save(tmp_path, [*history, later], 2)
    path = tmp_path / timeline.ENTRIES_FILE
    kept = json.loads(path.read_text())
    assert [each["sequence"] for each in kept] == [1, 2, 3]
    kept[2]["details"]["why"] = "nothing happened"
    path.write_text(json.dumps(kept))
    assert [each.sequence for each in timeline.load(tmp_path).changed] == [3]


def test_without_the_ledger_there_is_no_rollout(tmp_path):
    with pytest.raises(FileNotFoundError):
        timeline.load(tmp_path)
