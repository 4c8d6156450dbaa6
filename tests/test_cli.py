"""The command where nothing was released yet, or where what it is told is wrong: a sentence, no traceback."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bentos.contract import Contract, Field
from bentos.manifest import Manifest, Plan, Slo
from pipelines.cli import main
from pipelines.core.capacity.profile import Profile
from pipelines.core.entries import NOTHING
from pipelines.core.home import Home
from pipelines.core.release import Release
from pipelines.gateways.ledger import open_ledger
from pipelines.installation import Installation
from pipelines.planner import version_of

SETTINGS = ("SEATRIAL_HOME", "SEATRIAL_PORT", "MLFLOW_TRACKING_URI", "SEATRIAL_LEDGER_URL", "DAGSTER_HOME")


@pytest.fixture
def seatrial(tmp_path, monkeypatch, capfd):
    """Run the command in an empty home: exit status, standard output, standard error."""
    for name in SETTINGS:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("SEATRIAL_HOME", str(tmp_path / "home"))

    def run(*arguments: str) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["seatrial", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capfd.readouterr()

    return run


def refused(answer) -> str:
    """The sentence on standard error; what MLflow says of a new database may precede it."""
    status, out, err = answer
    assert status == 1 and out == "" and "Traceback" not in err
    *others, sentence = err.strip().splitlines()
    assert all("mlflow.store" in line or "alembic" in line for line in others), others
    return sentence


def test_an_empty_home_has_nothing_to_tell_and_nothing_to_stop(seatrial, tmp_path):
    status, out, err = seatrial("status", "--json")
    assert (status, json.loads(out), err) == (0, [], "")
    assert "Nothing was released yet: run `seatrial demo`" in seatrial("status")[1]
    assert seatrial("down")[:2] == (0, "Nothing was running.\n")
    assert (tmp_path / "home" / "dagster.yaml").is_file()


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        (
            "models:/nope@candidate",
            "There is no nope in the model registry; register it first, or correct the name in defs.yaml.",
        ),
        ("models:/[nope]@candidate", "There is no [nope] in the model registry; register it first"),
        ("models:/flight_delay@nope", "There is no flight_delay@nope in the model registry; set the alias"),
        ("models:/flight_delay@candidate", "There is no flight_delay@candidate in the model registry; set"),
    ],
    ids=["no such model", "a name in brackets", "no such alias", "nothing registered"],
)
def test_a_model_that_is_not_there_is_a_sentence(seatrial, uri, sentence):
    assert refused(seatrial("release", uri)).startswith(f"seatrial: {sentence}")


@pytest.mark.parametrize("port", ["abc", "0", "65536", "-1"])
def test_an_impossible_port_is_a_sentence(seatrial, monkeypatch, port):
    monkeypatch.setenv("SEATRIAL_PORT", port)
    sentence = f"seatrial: SEATRIAL_PORT is '{port}'; it must be a port such as 8080."
    assert refused(seatrial("status")) == sentence


def record(home: Home, version: str = "1", run_ms: float = 2.0) -> None:
    """What a release leaves behind for `seatrial plan`."""
    plan, slo = Plan(max_batch_size=8, max_latency_ms=50), Slo(p99_ms=50, expected_peak_rps=900)
    contract = Contract((Field("x", "float32"),), (Field("y", "float32"),))
    costs = {1: ((1, 0, run_ms), (8, 0, 4 * run_ms))}
    profile = Profile("a" * 64, "a machine far away", 1, "cpu", costs, {1: 1.0}, request_us=100)
    bento, load_test = (home.artifact("tiny", version, asset) for asset in ("bento", "load_test"))
    bento.mkdir(parents=True)
    load_test.mkdir()
    Manifest("tiny", version, f"v{version}-ab", "fp32", "a" * 64, contract, plan, slo).save(bento)
    profile.save(load_test)


def release(version: str) -> Release:
    return Release("tiny", version, f"v{version}-ab", "fp32", f"t:{version}", "/", "a")


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def planned(seatrial, home):
    """Run `seatrial plan tiny --json` where version 1 was released."""
    record(home)

    def run(*arguments: str) -> dict:
        status, out, _ = seatrial("plan", "tiny", "--json", *arguments)
        assert status == 0
        return json.loads(out)

    return run


def test_a_plan_as_data(planned):
    found = planned("--peak", "5000", "--p99", "30", "--price", "0.04", "--regions", "2")
    assert found["demand"] == {"peak_rps": 5000, "p99_ms": 30, "max_error_rate": 0.001}
    assert (found["version"], found["replica"]["max_batch_size"]) == ("1", 8)
    normal, (one, region) = found["normal"], found["failures"]
    assert normal["stage"]["p99_ms"] <= 30 and normal["goodput_rps"] >= 0.999 * 5000
    assert normal["cost_per_hour"] == pytest.approx(0.04 * normal["cores"])
    assert one["proof"]["replicas"] == normal["replicas"] + 1
    assert region["proof"]["replicas"] == 2 * normal["replicas"]
    assert any("a machine far away" in note for note in found["notes"])


def test_a_plan_without_wishes_is_for_what_was_promised(planned):
    found = planned()
    assert found["demand"] == {"peak_rps": 900, "p99_ms": 50, "max_error_rate": 0.001}
    assert found["normal"]["cost_per_hour"] is None


def test_a_plan_for_people(seatrial, home):
    record(home)
    status, out, _ = seatrial("plan", "tiny", "--peak", "5000", "--regions", "2", "--price", "0.04")
    assert status == 0
    assert out.startswith("tiny version 1 (fp32): 5,000/s, p99 within 50 ms, errors at most 0.10%\n")
    for part in (
        "all is well",
        "one replica is gone",
        "one of 2 regions is gone",
        "p99 ms",
        "cost a million",
    ):
        assert part in out
    assert "To keep the promise when one replica is gone: " in out


def test_the_plan_is_that_of_production_or_of_the_version_tested_last(home):
    for version in ("1", "2", "10"):
        record(home, version)
    installation = Installation(home, 8080, "")
    assert version_of(installation, "tiny", None) == "10"
    installation.ledger.append("tiny", "deployed", after=0, release=release("2"))
    assert version_of(installation, "tiny", None) == "2"
    assert version_of(installation, "tiny", "1") == "1"


def test_the_ledger_is_shown_and_verified(seatrial, home):
    assert seatrial("ledger", "verify")[1].endswith(
        f" holds: 0 entries, the last with the digest {NOTHING}\n"
    )
    assert not home.root.exists()
    assert refused(seatrial("ledger", "show", "tiny")).endswith("MODEL is 'tiny'; nothing was released yet.")
    ledger = open_ledger(None, home)
    first = ledger.append("tiny", "deployed", after=0, release=release("1"), details={"why": "[first]"})
    last = ledger.append("tiny", "alias_moved", after=1)
    status, out, _ = seatrial("ledger", "verify", "--head", first.digest)
    assert (status, out) == (
        0, f"The ledger {home.ledger} holds: 2 entries, the last with the digest {last.digest}\n"
    )  # fmt: skip
    sentence = refused(seatrial("ledger", "verify", "--head", "abc"))
    assert "no entry has the digest abc: the end was cut off, or all was written anew;" in sentence
    out = seatrial("ledger", "show", "tiny")[1]
    assert all(word in out for word in ("deployed", "v1-ab", "[first]", "alias_moved"))
    assert refused(seatrial("ledger", "show", "nope")) == "seatrial: MODEL is 'nope'; there are tiny."


def test_a_ledger_that_was_changed_is_a_sentence(seatrial, home):
    open_ledger(None, home).append("tiny", "deployed", after=0, release=release("1"))
    with sqlite3.connect(home.ledger) as database:
        database.execute("DROP TRIGGER no_UPDATE")
        database.execute("UPDATE seatrial_ledger SET text = replace(text, 'v1-ab', 'v2-ab')")
    database.close()
    sentence = f"seatrial: The ledger {home.ledger} can't be used: entry 1 was changed after it was written; "
    assert refused(seatrial("ledger", "verify")).startswith(sentence)


def test_the_ledger_is_where_the_environment_says(seatrial, monkeypatch):
    monkeypatch.setenv("SEATRIAL_LEDGER_URL", "postgresql://me:secret@127.0.0.1:1/x")
    sentence = (
        "seatrial: The ledger postgresql+psycopg://me:***@127.0.0.1:1/x can't be used: connection failed"
    )
    assert refused(seatrial("ledger", "verify")).startswith(sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nope"], "MODEL is 'nope'; there are tiny, untested."),
        (["../home"], "MODEL is '../home'; there are tiny, untested."),
        (["untested"], "MODEL is 'untested'; none of its versions was load-tested: run `seatrial release"),
        (
            ["tiny", "--version", "7"],
            "--version is '7'; no load test of it recorded a profile; those of 1 did.",
        ),
        (["tiny", "--peak", "0"], "--peak is 0.0; it must be more than 0: requests a second, such as 200."),
        (["tiny", "--peak", "nan"], "--peak is nan; it must be more than 0"),
        (["tiny", "--p99", "-5"], "--p99 is -5.0; it must be more than 0: milliseconds, such as 50."),
        (
            ["tiny", "--price", "-1"],
            "--price is -1.0; it must be more than 0: the price of a core for an hour",
        ),
        (["tiny", "--regions", "0"], "--regions is 0; it must be at least 1."),
        (["tiny", "--max-error-rate", "1"], "--max-error-rate is 1.0; it is a share, such as 0.001."),
        (["tiny", "--p99", "1"], "--p99 is 1.0; a request takes 2.1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_plan_that_cannot_be_made_is_a_sentence(seatrial, home, arguments, sentence):
    record(home)
    home.artifact("untested", "1", "bento").mkdir(parents=True)
    assert refused(seatrial("plan", *arguments)).startswith(f"seatrial: {sentence}")


def test_a_plan_where_nothing_was_released_is_a_sentence(seatrial):
    sentence = "seatrial: MODEL is 'tiny'; nothing was released yet: run `seatrial demo`."
    assert refused(seatrial("plan", "tiny")) == sentence


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_profile_is_a_sentence(seatrial, home, text):
    record(home)
    path = home.artifact("tiny", "1", "load_test") / "profile.json"
    path.write_text(text)
    sentence = f"seatrial: The recorded profile is '{path}'; it is damaged or of another version of Seatrial"
    assert refused(seatrial("plan", "tiny")).startswith(sentence)


def test_the_command_itself_ends_soon_when_the_registry_does_not_answer(tmp_path):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        ended = subprocess.run(
            [Path(sys.executable).with_name("seatrial"), "release", "models:/flight_delay@candidate"],
            env={**os.environ, "SEATRIAL_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": uri},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"seatrial: The model registry at {uri} does not answer")
    assert ended.stderr.endswith("check MLFLOW_TRACKING_URI and that the server is up.\n")
    assert ended.stderr.count("\n") == 1
