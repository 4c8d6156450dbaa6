"""One set of tests for the ledger in memory, as a file and in Postgres; then what only those can suffer."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from pipelines.core.entries import NOTHING
from pipelines.core.errors import LedgerMoved, LedgerUnusable, SettingsInvalid
from pipelines.core.home import Home
from pipelines.core.release import Release
from pipelines.core.rollout.controller import start
from pipelines.core.rollout.strategies import canary
from pipelines.gateways.ledger import Ledger, open_ledger
from pipelines.gateways.sql_ledger import SqlLedger
from tests.fakes.ledger import FakeLedger
from tests.gateways.postgres import postgres

FIRST = Release("churn", "1", "r1", "fp32", "churn:1", "/", "artifacts/churn/1", {"parity": {"max": 1e-6}})
SECOND = Release("churn", "2", "r2", "int8_static", "churn:2", "/", "artifacts/churn/2")
OTHER = Release("delay", "1", "d1", "fp32", "delay:1", "/delay", "artifacts/delay/1")
PROJECT = Path(__file__).parents[2]
PLAN = canary((0.1, 0.5))
REAL = ["sqlite", pytest.param("postgres", marks=pytest.mark.e2e)]

PROGRAM = """
import json, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from pipelines.core.errors import LedgerMoved
from pipelines.core.home import Home
from pipelines.gateways.ledger import open_ledger

def opened(folder=""):
    return open_ledger(sys.argv[1] or None, Home(Path(sys.argv[2], folder)))

def begin(number):
    for folder in map(str, range(40)):
        ready.wait(60)
        try:
            opened(folder).append("churn", "deployed", after=0)
        except LedgerMoved:
            pass

def compete(number):
    ledger, count, won = opened(), Path(sys.argv[2], "count"), []
    for after in range(4):
        ready.wait(60)  # in vain where another fails
        try:
            won.append(ledger.append("churn", "deployed", after=after).sequence)
        except LedgerMoved:
            pass
        with ledger.turn():
            count.write_text(str(int(count.read_text() or 0) + 1))
    return won
"""
ALL_AT_ONCE = """
opened()  # imports, once for all, what each needs
forked = multiprocessing.get_context("fork")
ready = forked.Barrier(8)
with ProcessPoolExecutor(8, forked) as pool:  # whose map ends too where an error can't be pickled
    print(json.dumps(list(pool.map({}, range(8)))))
"""
WITHOUT_END = """
ledger, after = opened(), 0
with ledger.turn():
    while True:
        after = ledger.append("churn", "deployed", after=after).sequence
        print(after, flush=True)
"""


@pytest.fixture(scope="module")
def server():
    with postgres() as url:
        yield url


def url_of(request) -> str:
    """Of what the test is about; nothing is left of the test before."""
    if request.param != "postgres":
        return ""
    url = request.getfixturevalue("server")
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("DROP TABLE IF EXISTS seatrial_ledger")
    return url


@pytest.fixture(params=["fake", *REAL])
def ledger(request, tmp_path) -> Ledger:
    if request.param == "fake":
        return FakeLedger()
    return open_ledger(url_of(request), Home(tmp_path / "home"))


@pytest.fixture(params=REAL)
def real(request, tmp_path) -> tuple[Ledger, tuple[str, str]]:
    """One that several programs use, and the arguments by which they do."""
    url = url_of(request)
    return open_ledger(url, Home(tmp_path)), (url, str(tmp_path))


def execute(ledger: Ledger, *statements: str) -> None:
    """As somebody who owns the database."""
    assert isinstance(ledger, SqlLedger)
    with ledger.engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def run(program: str, arguments: tuple[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM + program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT)


def test_an_empty_ledger_has_nothing_in_production(ledger):
    assert (ledger.production("churn"), ledger.history("churn"), ledger.models()) == (None, [], [])
    assert (ledger.head(), ledger.fault(), ledger.standing("churn").last) == ((0, NOTHING), None, 0)


def test_what_took_over_last_is_in_production(ledger):
    made = [ledger.append("churn", "deployed", after=0, release=FIRST, details={"why": ("é", None)})]
    other = ledger.append("delay", "deployed", after=0, release=OTHER)
    made.append(ledger.append("churn", "deployed", after=1, release=SECOND))
    assert (ledger.production("churn"), ledger.standing("churn").former) == (SECOND, FIRST)
    made.append(ledger.append("churn", "restored", after=3, release=FIRST))
    assert (ledger.production("churn"), ledger.standing("churn").former) == (FIRST, SECOND)
    assert ledger.history("churn") == made and ledger.history("delay") == [other]
    assert [each.sequence for each in made] == [1, 3, 4] and made[0].details == {"why": ["é", None]}
    assert ledger.models() == ["churn", "delay"] and ledger.head() == (4, made[-1].digest)
    assert [each.previous for each in made] == [NOTHING, other.digest, made[1].digest]
    assert datetime.fromisoformat(made[0].at).utcoffset() == timedelta(0) and len(made[0].at) == 29


def test_what_was_added_by_another_is_seen(real):
    mine, (url, home) = real
    theirs = open_ledger(url, Home(Path(home)))
    assert mine.models() == theirs.models() == []
    for after in range(3):
        (mine, theirs)[after % 2].append("churn", "deployed", after=after)
        assert mine.history("churn") == theirs.history("churn") and mine.head()[0] == after + 1
    assert mine.standing("churn") == theirs.standing("churn")


def test_who_saw_less_is_refused(ledger):
    ledger.append("churn", "deployed", after=0, release=FIRST)
    for after in (0, 2):
        with pytest.raises(LedgerMoved, match=r"^Another release of churn was faster; look at"):
            ledger.append("churn", "deployed", after=after, release=SECOND)
    assert ledger.head()[0] == 1 and ledger.production("churn") == FIRST


def test_a_rollout_is_named_by_what_started_it(ledger):
    ledger.append("churn", "deployed", after=0, release=FIRST)
    details = {"plan": PLAN.to_dict(), "state": start(PLAN, 0.0).state.to_dict()}
    started = ledger.append("churn", "started", after=1, release=SECOND, details=details)
    moved = ledger.append("churn", "moved", after=2, release=SECOND, rollout=2)
    assert (started.rollout, moved.rollout) == (2, 2)
    rollout = ledger.standing("churn").rollout
    assert (rollout.number, rollout.plan, rollout.stable, rollout.canary) == (2, PLAN, FIRST, SECOND)


def test_what_nobody_could_read_is_not_written(ledger):
    with pytest.raises(ValueError, match="a rollout needs a release to try, and one in production"):
        ledger.append("churn", "started", after=0, release=SECOND)
    with pytest.raises(ValueError, match="JSON compliant"):
        ledger.append("churn", "deployed", after=0, details={"p99_ms": float("nan")})
    assert ledger.head() == (0, NOTHING)


def test_each_digest_that_was_written_down_is_found_again(ledger):
    digests = [ledger.append("churn", "deployed", after=after).digest for after in range(3)]
    assert [ledger.fault(digest) for digest in digests] == [None] * 3
    assert "no entry has the digest abc" in ledger.fault("abc")


def test_reading_makes_no_file(tmp_path):
    ledger = open_ledger(None, Home(tmp_path))
    assert (ledger.models(), ledger.fault(), list(tmp_path.iterdir())) == ([], None, [])


def test_entries_cannot_be_changed_or_removed(real):
    ledger, (url, _) = real
    entry = ledger.append("churn", "deployed", after=0, release=FIRST)
    statements = ["UPDATE seatrial_ledger SET text = ''", "DELETE FROM seatrial_ledger"]
    for statement in [*statements, *(["TRUNCATE seatrial_ledger"] if url else [])]:
        with pytest.raises(Exception, match="the ledger is only added to"):
            execute(ledger, statement)
    assert ledger.history("churn") == [entry] and ledger.fault() is None


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE seatrial_ledger SET text = replace(text, 'r1', 'r9') WHERE sequence = 1", "entry 1 was"),
        ("UPDATE seatrial_ledger SET digest = replace(digest, '1', '2') WHERE sequence = 3", "entry 3 was"),
        ("UPDATE seatrial_ledger SET sequence = 9 WHERE sequence = 3", "entry 3 is missing: 9 comes"),
        ("DELETE FROM seatrial_ledger WHERE sequence = 2", "entry 2 is missing: 3 comes in its place"),
        ("INSERT INTO seatrial_ledger SELECT 0, text, digest FROM seatrial_ledger LIMIT 1", "entry 1 is"),
        ("DELETE FROM seatrial_ledger WHERE sequence = 3", "no entry has the digest"),
    ],
    ids=["text", "digest", "number", "removed", "put in", "cut off"],
)  # fmt: skip
def test_who_owns_the_database_can_change_it_and_is_found(real, damage, says):
    ledger, (url, _) = real
    for after in range(3):
        ledger.append("churn", "deployed", after=after, release=FIRST)
    _, head = ledger.head()
    off = (
        ["DROP TRIGGER only_added_to ON seatrial_ledger"]
        if url
        else ["DROP TRIGGER no_UPDATE", "DROP TRIGGER no_DELETE"]
    )
    execute(ledger, *off, damage)
    assert ledger.fault(head).startswith(says)


def test_what_is_no_entry_is_a_sentence(real):
    ledger, (url, home) = real
    ledger.append("churn", "deployed", after=0)
    execute(ledger, "INSERT INTO seatrial_ledger VALUES (2, '{}', '')")
    for damaged in (ledger, open_ledger(url, Home(Path(home)))):
        with pytest.raises(LedgerUnusable, match=r"entry 2 can't be read; restore it from a backup\.$"):
            damaged.history("churn")
    assert ledger.fault() == "entry 2 was changed after it was written"


def test_of_programs_that_saw_the_same_one_wins(real):
    ledger, arguments = real
    Path(arguments[1], "count").touch()
    program = run(ALL_AT_ONCE.format("compete"), arguments)
    won = [number for of_one in json.loads(program.communicate()[0]) for number in of_one]
    assert sorted(won) == [1, 2, 3, 4] == [each.sequence for each in ledger.history("churn")]
    assert ledger.fault() is None
    assert Path(arguments[1], "count").read_text() == "32"  # one turn at a time


def test_programs_may_begin_a_file_together(tmp_path):
    program = run(ALL_AT_ONCE.format("begin"), ("", str(tmp_path)))
    program.communicate()
    assert program.returncode == 0
    for folder in map(str, range(40)):
        ledger = open_ledger(None, Home(tmp_path / folder))
        assert len(ledger.history("churn")) == 1 and ledger.fault() is None


def test_a_writer_that_is_killed_loses_nothing_and_its_turn(real):
    ledger, arguments = real
    writer = run(WITHOUT_END, arguments)
    assert writer.stdout
    told = [int(writer.stdout.readline()) for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    told += map(int, writer.communicate()[0].split())
    kept = [each.sequence for each in ledger.history("churn")]
    assert kept[: len(told)] == told and ledger.fault() is None
    with ledger.turn():
        assert ledger.append("churn", "deployed", after=kept[-1]).sequence == kept[-1] + 1


def test_another_file_in_the_place_of_the_ledger_is_read_anew(tmp_path):
    ledger, backup = (open_ledger(None, Home(tmp_path / name)) for name in ("now", "backup"))
    for each, model in ((ledger, "churn"), (ledger, "churn"), (backup, "delay")):
        each.append(model, "deployed", after=each.standing(model).last)
    shutil.copy(backup.where, ledger.where)
    assert ledger.models() == ["delay"] and ledger.head() == backup.head()
    Path(ledger.where).unlink()
    assert ledger.append("churn", "deployed", after=0).sequence == 1
    Path(ledger.where).unlink()
    assert ledger.models() == []


def test_a_file_that_is_none_of_ours_is_a_sentence(tmp_path):
    ledger = open_ledger(None, Home(tmp_path))
    Path(ledger.where).write_text("not a database at all")
    with pytest.raises(
        LedgerUnusable, match=r"^The ledger .*ledger.sqlite can't be used: file is not a database"
    ):
        ledger.append("churn", "deployed", after=0)


def test_a_table_of_something_else_in_the_file_is_left_alone(tmp_path):
    with sqlite3.connect(Home(tmp_path).ledger) as database:
        database.execute("CREATE TABLE ledger (sequence INTEGER)")
    database.close()
    ledger = open_ledger(None, Home(tmp_path))
    assert ledger.models() == [] and ledger.append("churn", "deployed", after=0).sequence == 1


def test_a_server_that_is_away_is_a_sentence_without_the_password(tmp_path):
    ledger = open_ledger("postgresql://me:se%40cret@127.0.0.1:1/x?sslpassword=se%40cret", Home(tmp_path))
    for call in (ledger.models, ledger.fault, lambda: ledger.append("churn", "deployed", after=0)):
        with pytest.raises(LedgerUnusable) as refused:
            call()
        sentence = str(refused.value)
        assert sentence.startswith(
            "The ledger postgresql+psycopg://me:***@127.0.0.1:1/x can't be used: connection"
        )
        assert sentence.endswith("; check SEATRIAL_LEDGER_URL and that the server is up.")
        assert "cret" not in sentence and "\n" not in sentence


@pytest.mark.parametrize(
    "url", ["mysql://me:secret@host/x", "me:secret@host", "postgresql://me:secret@h:p/x"]
)
def test_a_url_that_is_none_is_a_sentence_without_the_password(tmp_path, url):
    with pytest.raises(SettingsInvalid, match=r"^SEATRIAL_LEDGER_URL is .*; write postgresql") as refused:
        open_ledger(url, Home(tmp_path))
    assert "secret" not in str(refused.value)
