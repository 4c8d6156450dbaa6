"""The rollout report, run on rollouts as they are kept: the decision comes first, whatever is missing."""

import html
import re
from pathlib import Path

import nbformat
import pytest

from pipelines.core.rollout import timeline
from pipelines.core.rollout.experiment import Experiment
from pipelines.core.rollout.plan import Plan
from pipelines.core.rollout.strategies import GUARDRAILS, canary, shadow
from pipelines.gateways.notebooks import Papermill
from tests.benchmarks.rollout.worlds import BAD, GOOD
from tests.core.rollouts import DRILL, analysed, run, shadowed, write

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PACE = {"min_requests": 500, "min_seconds": 3}
PLAN = Plan((*shadow(1.0, GUARDRAILS, **PACE).steps, *canary((0.5,), **PACE).steps))

pytestmark = pytest.mark.e2e


def page(folder: Path) -> str:
    """What it says, and how many pictures it has, as the last word."""
    report = Papermill(NOTEBOOKS).run("rollout_review", {"rollout_dir": folder}, folder / "report")
    executed = nbformat.read(report.notebook, 4)
    assert not [o for c in executed.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    whole = report.html.read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", whole)
    body = whole.partition("<body")[2]
    text = html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r"<(script|style).*?</\1>", "", body, flags=re.S)))
    return " ".join([*text.split(), str(body.count("<img"))])


def test_the_page_answers_from_the_top_down(tmp_path: Path):
    history, lines = run(PLAN, GOOD, rps=2000)
    write(tmp_path, history, lines)
    shadowed().save(tmp_path)
    told = (analysed(), analysed(effect=0.0, metric="delay <s>"))
    Experiment(told, {"spend": "its table has no column user"}).save(tmp_path)
    DRILL.save(tmp_path)
    says = page(tmp_path)
    answers = [
        "Yes: version 4 as int8_static took over flight_delay",
        "The plan was shadow at 100 % → canary at 50 % → full at 100 %",
        "Enough was seen in each step",
        "shadow at 100 % 2026-03-02 09:30:00",
        "How did certainty come?",
        "What was known at the end of each step",
        "requests the releases gave the same decision at a threshold of 0.5",
        "an A/B takes",
        "canary slower by, ms",
        "The rows on which they disagree most",
        "<DL>",
        "rebookings is higher with the new release.",
        "20,000 users were reckoned to be enough.",
        "Users were split as planned",
        "No difference of delay <s> is shown.",
        "spend is not known by user: its table has no column user.",
        "The rollback was rehearsed: 43 ms",
        "all have their digests still",
        "promoted v4-9f4c20e1 canary at 50 % did no harm",
        history[-1].digest,
        "onnx_sha256",
    ]
    places = [says.find(answer) for answer in answers]
    assert -1 not in places, answers[places.index(-1)]
    assert places == sorted(places) and says.endswith(" 3")


def test_a_release_that_was_taken_back_has_the_reason_first_and_claims_nothing_else(tmp_path: Path):
    history, lines = run(canary((0.5,), **PACE), BAD["nothing but errors"])
    write(tmp_path, history, lines)
    (tmp_path / timeline.LOOKS_FILE).unlink()
    says = page(tmp_path)
    assert "No: version 4 as int8_static of flight_delay was taken back" in says
    assert "The reason: the canary fails more often: 100 % of" in says
    assert "No look was kept of this rollout." in says and "Requests were not mirrored" in says
    assert "No metric of users was compared." in says and "was not rehearsed" in says and says.endswith(" 0")
