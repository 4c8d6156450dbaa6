"""From a release, or from one prediction, back to all that it rests on: the command and its page."""

import html
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipelines.core.errors import SettingsInvalid
from pipelines.core.exhibits import digest, keep
from pipelines.core.home import Home
from pipelines.core.rollout.controller import start
from pipelines.core.rollout.strategies import canary
from pipelines.dossiers import ASKED, Given, check, folder_of, look_up, print_check, run_dossier, write
from pipelines.gateways.ledger import open_ledger
from pipelines.installation import Installation
from tests.core.releases import MODEL, dossier_of, make_release
from tests.fakes.ledger import FakeLedger
from tests.fakes.notebooks import FakeNotebooks

RELEASE_ID, REQUEST_ID = "v2-abc", "8d1f"


@pytest.fixture
def home(tmp_path):
    """Version 2 in production, as version 1 was."""
    made = Home(tmp_path)
    make_release(made, "1")
    make_release(made, "2", production="1")
    _log(made)
    return made


@pytest.fixture
def ledger(home):
    return _deployed(home, FakeLedger())


def _deployed(home, ledger):
    """Version 1 took over at once, version 2 step by step."""
    ledger.append(MODEL, "deployed", after=0, release=_kept(home, ledger, "1"))
    second = _kept(home, ledger, "2")
    plan = canary((0.25,))
    state = start(plan, 0.0).state
    details = {"plan": plan.to_dict(), "state": state.to_dict(), "why": state.why}
    ledger.append(MODEL, "started", after=1, release=second, details=details)
    ended = replace(state, weight=1.0, phase="promoted", why="no harm was done")
    details = {"state": ended.to_dict(), "why": ended.why}
    ledger.append(MODEL, "promoted", after=2, release=second, rollout=2, details=details)
    return ledger


def _kept(home, ledger, version):
    made = dossier_of(home, version, ledger.head())
    made.save(home.artifact(MODEL, version, "dossier"))
    return made.judged()


def _log(home: Home) -> None:
    """Two segments of the prediction log, the newer one of a release that knows more columns."""
    row = dict(zip(ASKED, (REQUEST_ID, None, MODEL, "2", RELEASE_ID, "json", "model", 1.5), strict=True))
    for number, request_id in enumerate(("0000", REQUEST_ID)):
        rows = [{**row, "request_id": request_id, "input_age": 1.0}] * (number + 1)
        table = pa.Table.from_pylist(rows).drop(["time"])
        table = table.append_column("time", pa.array([0] * len(rows), pa.timestamp("us", "UTC")))
        folder = home.prediction_log(MODEL)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"predictions-20260101T00000{number}.000000Z-0000000{number}.parquet"
        pq.write_table(table, folder / name)


def nothing(reference: str) -> None:
    """An engine without images."""


def said(found, page=None) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_check(found, page, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_what_holds_is_said_and_kept_beside_the_dossier(home, ledger):
    found, notebooks = check(home, ledger, nothing, RELEASE_ID, {}), FakeNotebooks()
    assert not found.faults and {"the ledger", "the dossier", "holdout"} <= {e.what for e in found.findings}
    page = write(found, home, notebooks)
    (name, parameters), folder = notebooks.runs[0], folder_of(home, found.release)
    assert name == "dossier" and parameters["dossier_file"] == found.file and page and page.parent == folder
    kept = json.loads((folder / "check.json").read_text())
    assert kept["holds"] and [line["action"] for line in kept["history"]] == ["started", "promoted"]
    assert [line["weight"] for line in kept["history"]] == [0.25, 1.0]
    assert kept["history"][0]["digest"] == ledger.history(MODEL)[1].digest
    assert "All " in said(found, page) and "(entry 2 of the ledger)" in said(found, page)


def _holdout(home, ledger):
    home.data("data/holdout.parquet").write_bytes(b"other rows")


def _dossier(home, ledger):
    file = next(folder_of(home, ledger.production(MODEL)).glob("v2-abc.*.json"))
    file.write_text(file.read_text().replace("fine", "good"))


def _ledger(home, ledger):
    ledger.entries[0] = replace(ledger.entries[0], at="2020-01-01T00:00:00.000+00:00")


def _cut_off(home, ledger):
    """What was before version 2 is left out, and the chain is written anew."""
    release = ledger.production(MODEL)
    ledger.entries.clear()
    ledger.append(MODEL, "deployed", after=0, release=release)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_holdout, "does not hold: data/holdout.parquet is not what it was"),
        (_dossier, "json was changed after it was written"),
        (_ledger, "does not hold: entry 1 was changed after it was written"),
        (_cut_off, "the end was cut off, or all was written anew"),
    ],
)
def test_what_does_not_hold_is_named(home, ledger, damage, says):
    damage(home, ledger)
    found = check(home, ledger, nothing, RELEASE_ID, {})
    assert len(found.faults) == 1 and says in said(found) and " of " in said(found)
    write(found, home, FakeNotebooks())
    assert not json.loads((folder_of(home, found.release) / "check.json").read_text())["holds"]


def test_what_was_made_again_is_read_where_it_is_kept(home, ledger):
    keep(dossier_of(home, "2", ledger.head()).exhibits.values(), home.root, home.evidence)
    holdout = home.data("data/holdout.parquet")
    holdout.unlink()
    holdout.write_bytes(b"other rows")
    found = check(home, ledger, nothing, RELEASE_ID, {})
    assert not found.faults and "1 file was replaced since" in said(found)


def test_a_release_whose_dossier_is_gone_has_no_page(home, ledger):
    shutil.rmtree(home.artifact(MODEL, "2", "dossier"))
    found = check(home, ledger, nothing, RELEASE_ID, {})
    assert found.file is None and write(found, home, FakeNotebooks()) is None
    assert "is gone" in said(found)


def test_a_prediction_is_found_by_its_request_id(home):
    asked = look_up(home, REQUEST_ID)
    assert (asked["release_id"], asked["rows"], asked["source"]) == (RELEASE_ID, 2, "model")
    assert asked["time"] == "1970-01-01T00:00:00.000+00:00" and "input_age" not in asked


def test_what_there_is_nothing_of_is_a_sentence(home, ledger):
    with pytest.raises(SettingsInvalid, match=r"--request is 'nope'; no prediction log holds it"):
        look_up(home, "nope")
    with pytest.raises(SettingsInvalid, match=r"RELEASE_ID is 'v9'; no entry of the ledger is about it"):
        check(home, ledger, nothing, "v9", {})
    for given in (Given(), Given(RELEASE_ID, REQUEST_ID)):
        with pytest.raises(SettingsInvalid, match="give it, or --request"):
            run_dossier(Installation(home, 8080, ""), given, Console(file=io.StringIO()))


@pytest.mark.e2e
def test_the_page_leads_an_auditor_from_a_prediction_to_the_data(home, tmp_path):
    _deployed(home, open_ledger(None, home))
    home.data("data/reference.parquet").write_bytes(b"other rows")
    page = tmp_path / "out" / "page.html"
    given = Given(request_id=REQUEST_ID, html=page)
    assert not run_dossier(Installation(home, 8080, ""), given, Console(file=io.StringIO()))
    executed = nbformat.read(next(home.root.glob("artifacts/churn/2/dossier/dossier.ipynb")), 4)
    assert not [o for c in executed.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    says = text_of(page)
    answers = [
        "No: 1 of",
        "reference : data/reference.parquet is not what it was",
        "The request 8d1f of 1970-01-01 00:00:00 UTC (2 rows) was answered by this release",
        "x-release-id: v2-abc came from churn version 2 , which is models:/churn/2",
        "their truth is in “left”",
        digest(home.data("data/holdout.parquet"))[:16],
        "accuracy_non_inferior_to_production pass",
        "int8_static pass 0.7400 (0.7300–0.7500)",
        "a p99 of at most 50 ms",
        "40 ms until nobody was sent to it any more, 50 ms until its last answer; 0 of 80 requests failed",
        "started v2-abc 25% the rollout starts",
        "promoted v2-abc 100% no harm was done",
        "does not hold data/reference.parquet",
        "onnxruntime 1.31.1",
        "seatrial dossier v2-abc",
    ]
    places = [says.find(answer) for answer in answers]
    assert -1 not in places, answers[places.index(-1)]
    assert places == sorted(places)


def text_of(page: Path) -> str:
    """What the page says; it loads nothing from elsewhere."""
    source = page.read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", source)
    body = re.sub(r"<(script|style).*?</\1>", "", source.partition("<body")[2], flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())
