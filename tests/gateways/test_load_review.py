"""The load report, run on load tests as they are kept: the answer comes first, whatever is missing."""

import html
import re
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from pipelines.core.capacity.proof import Load
from pipelines.core.latency import Offer, Samples, histogram, summarise
from pipelines.gateways.notebooks import Papermill
from tests.core.loads import ADVICE, GATES, REASONS, make_load, write_load, write_proposal

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

pytestmark = pytest.mark.e2e


def page(folder: Path) -> str:
    """What it says, and how many pictures it has, as the last word."""
    report = Papermill(NOTEBOOKS).run(
        "load_review", {"load_dir": folder, "model": "flight_delay", "version": "3"}, folder / "report"
    )
    executed = nbformat.read(report.notebook, 4)
    assert not [o for c in executed.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    body = report.html.read_text().partition("<body")[2]
    text = html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r"<(script|style).*?</\1>", "", body, flags=re.S)))
    return " ".join([*text.split(), str(body.count("<img"))])


def test_the_page_answers_from_the_top_down(tmp_path: Path):
    write_load(tmp_path, *make_load())
    write_proposal(tmp_path)
    says = page(tmp_path)
    answers = [
        "Yes: flight_delay version 3 as int8_static keeps its promise at twice the expected peak.",
        *GATES.values(),
        "It holds up to 1,700 requests/s , 8.5 times the expected peak.",
        "Version 2, which serves now, holds up to 1,133 requests/s, so this is 1.50 times as much",
        *REASONS,
        "The knee is 4.25 times twice the expected peak",
        "10x the expected peak 2,000 3 4 4 6",
        "A million predictions cost 0.0261",
        "Side by side with version 2",
        "1,700 1,133 1.50×",
        "Where does the time go",
        "How slow are the slowest?",
        "Memory went from",
    ]
    places = [says.find(answer) for answer in answers]
    assert -1 not in places, answers[places.index(-1)]
    assert places == sorted(places) and says.endswith(" 5")


def test_without_production_price_and_proposal_it_says_what_to_set(tmp_path: Path):
    write_load(tmp_path, *make_load(production=False, price=None))
    says = page(tmp_path)
    assert "set price_per_core_hour in defs.yaml" in says and "price of a million" not in says
    assert "No plan was derived" in says and "Side by side" not in says


def test_a_broken_promise_comes_first_with_what_would_have_to_change(tmp_path: Path):
    load, samples = make_load(production=False, knee_rps=100)
    write_load(tmp_path, load, samples, "fail")
    write_proposal(tmp_path, met=False)
    says = page(tmp_path)
    assert "No: flight_delay version 3 as int8_static breaks its promise." in says
    assert "No plan keeps the promise here." in says and all(hint in says for hint in ADVICE)
    assert "The knee is 0.25 times twice the expected peak : there is no room" in says


def test_a_service_that_was_gone_at_once_still_has_a_report(tmp_path: Path):
    load, samples = make_load(production=False)
    write_load(tmp_path, gone(load), samples[:0], "fail")
    says = page(tmp_path)
    assert "breaks its promise" in says and "The promise held at no rate that was offered." in says
    assert "No number of replicas keeps the promise." in says and "There was no soak" in says
    assert says.endswith(" 0")


def test_without_verdicts_nothing_is_claimed(tmp_path: Path):
    load, samples = make_load(production=False)
    unbroken = replace(load, candidate=replace(load.candidate, knee_reached=False))
    write_load(tmp_path, unbroken, samples)
    for gate in GATES:
        (tmp_path / f"{gate}.verdict.json").unlink()
    says = page(tmp_path)
    assert "It is not shown that flight_delay version 3 as int8_static keeps its promise." in says
    assert "up to 1,700 requests/s it held" in says and "The knee is at least 4.25 times" in says


def gone(load: Load) -> Load:
    """The load test of a service that answered nothing."""
    nothing = Samples(*(samples[:0] for samples in [Offer("", 1, 1).times(0)] * 4))
    first = load.candidate.steps[0]
    step = replace(
        first,
        stage=summarise(Offer("½x peak", 100, 2), 200, nothing),
        histogram=histogram(nothing).decode(),
    )
    return replace(load, candidate=replace(load.candidate, steps=(step,), knee_rps=0.0, knee_reached=True))
