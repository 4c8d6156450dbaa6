import sqlite3
import subprocess
import sys
from datetime import datetime

import pytest

from pipelines.gateways.ledger import SqliteLedger
from tests.fakes.ledger import FakeLedger

FIRST = {
    "version": "1",
    "release_id": "r1",
    "rung": "fp32",
    "tag": "churn:1",
    "port": 20001,
    "path": "/",
    "artifact": "artifacts/churn/1",
    "evidence": {"parity": {"outcome": "pass", "max_difference": 1e-6}},
}
SECOND = {**FIRST, "version": "2", "release_id": "r2", "rung": "int8_static"}


@pytest.fixture(params=["fake", "sqlite"])
def ledger(request, tmp_path):
    return FakeLedger() if request.param == "fake" else SqliteLedger(tmp_path / "state" / "ledger.sqlite")


def test_empty_ledger_has_nothing_in_production(ledger):
    assert (ledger.production("churn"), ledger.history("churn"), ledger.models()) == (None, [], [])


def test_last_entry_is_in_production(ledger):
    ledger.record("churn", "deployed", FIRST)
    ledger.record("churn", "deployed", SECOND)
    ledger.record("delay", "deployed", FIRST)
    rolled_back = ledger.record("churn", "rolled_back", FIRST)
    assert ledger.production("churn") == rolled_back
    assert rolled_back.release_id == "r1" and rolled_back.action == "rolled_back"
    assert ledger.models() == ["churn", "delay"]


def test_history_is_complete_and_in_order(ledger):
    made = [ledger.record("churn", "deployed", release) for release in (FIRST, SECOND)]
    assert ledger.history("churn") == made
    assert made[0].sequence < made[1].sequence
    assert made[0].evidence["parity"]["max_difference"] == 1e-6
    assert datetime.fromisoformat(made[0].at).utcoffset().total_seconds() == 0


def test_one_turn_at_a_time(ledger):
    with ledger.turn():
        ledger.record("churn", "deployed", FIRST)
    with ledger.turn():
        assert ledger.production("churn").release_id == "r1"


def test_reading_creates_no_file(tmp_path):
    assert SqliteLedger(tmp_path / "ledger.sqlite").models() == []
    assert list(tmp_path.iterdir()) == []


def test_entries_cannot_be_changed_or_deleted(tmp_path):
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    entry = ledger.record("churn", "deployed", FIRST)
    for statement in ("UPDATE ledger SET model = 'x'", "DELETE FROM ledger"):
        with sqlite3.connect(ledger.path) as database, pytest.raises(sqlite3.IntegrityError, match="added"):
            database.execute(statement)
        database.close()
    assert ledger.history("churn") == [entry]


def test_programs_write_at_once(tmp_path):
    program = f"""
from pathlib import Path
from pipelines.gateways.ledger import SqliteLedger
for _ in range(20):
    SqliteLedger(Path({str(tmp_path / "ledger.sqlite")!r})).record("churn", "deployed", {FIRST!r})
"""
    writers = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    sequences = [entry.sequence for entry in SqliteLedger(tmp_path / "ledger.sqlite").history("churn")]
    assert sequences == list(range(1, 61))
