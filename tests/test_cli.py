"""The command where nothing was released yet, or where what it is told is wrong: a sentence, no traceback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import main

SETTINGS = ("SEATRIAL_HOME", "SEATRIAL_PORT", "MLFLOW_TRACKING_URI", "DAGSTER_HOME")


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
