"""What a new user does, in order: every command of the README, then a better, a worse and an equal day.

The commands are read from README.md and run as they stand there, but for the port and the place of the state.
"""

import json
import os
import re
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipelines.core.home import Home
from pipelines.gateways.registry import MlflowRegistry
from pipelines.gateways.services import free_port

pytestmark = pytest.mark.e2e

PROJECT = Path(__file__).parents[2]
MODEL = "flight_delay"


class User:
    """A shell in the project's folder with an installation of its own. MLflow sets variables of this process
    whenever it is told where to track, which a user's shell does not have."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.port = Home(home), port
        shell = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        self.env = {**shell, "SEATRIAL_HOME": str(home), "SEATRIAL_PORT": str(port), "COLUMNS": "120"}
        self.printed: dict[str, str] = {}

    def run(self, command: str, expect: int = 0) -> str:
        """Run a command line and return what it printed, errors included."""
        there = command.replace(":8080", f":{self.port}").replace("$PWD/dagster_home", str(self.home.root))
        ended = subprocess.run(
            ["bash", "-c", there], cwd=PROJECT, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert ended.returncode == expect, ended.stdout
        self.printed[command] = ended.stdout
        return ended.stdout

    def status(self) -> dict:
        (model,) = json.loads(self.run(".venv/bin/seatrial status --json"))
        return model

    def processes(self) -> list[psutil.Process]:
        """Every process that knows of this home."""
        return [p for p in psutil.process_iter(["cmdline"]) if str(self.home.root) in str(p.info["cmdline"])]


class Clients:
    """Ask for predictions without a pause while the block runs; `answers` counts by (status, version)."""

    def __init__(self, port: int, body: bytes) -> None:
        self.url, self.body = f"http://127.0.0.1:{port}/predict", body
        self.answers: dict[tuple[int, str | None], int] = {}
        self._over, self._threads = threading.Event(), [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._over.wait(0.01):
            answer = self._one()
            self.answers[answer] = self.answers.get(answer, 0) + 1

    def _one(self) -> tuple[int, str | None]:
        request = urllib.request.Request(self.url, self.body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.headers["x-model-version"]
        except urllib.error.HTTPError as error:
            return error.code, None
        except OSError:
            return 0, None


def readme_commands() -> list[str]:
    """The lines of the README's bash blocks, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", (PROJECT / "README.md").read_text(), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def user(make_home):
    user = User(make_home(), free_port())
    yield user
    user.run(".venv/bin/seatrial down")


def _register(user: User, shuffle: bool) -> str:
    """Register a net as the next candidate: trained like the first, or on labels dealt at random."""
    import pandas as pd

    from bentos.contract import encode
    from pipelines.defs.flight_delay import train
    from pipelines.defs.flight_delay.tables import FEATURES, LABEL

    rows = pd.read_parquet(user.home.data("data/flight_delay/reference.parquet"))
    if shuffle:
        rows[LABEL] = np.random.default_rng(0).permutation(rows[LABEL])
    contract = train.learned_contract(rows)
    feeds = encode(contract, {name: rows[name].to_numpy() for name in FEATURES})
    registry = MlflowRegistry(f"sqlite:///{user.home.mlflow / 'mlflow.db'}")
    version = train.register(registry, train.train(feeds, rows[LABEL].to_numpy())[0], contract, feeds)
    registry.set_alias(MODEL, "candidate", version)
    return version


def test_the_readme_ends_in_a_served_scored_and_watched_release(user):
    commands = readme_commands()
    assert commands[0] == "make demo" and commands[-1] == "make down"
    for command in commands[:-1]:
        user.run(command)
    demo = user.printed["make demo"]
    for rung in ("fp32", "int8_dynamic", "int8_static"):
        assert re.search(rf"{rung} (is served|lost): ", demo)
    for report in re.findall(r"(?:Accuracy|Release|Drift) report +(\S+)", demo):
        assert "<html" in Path(report).read_text()[:500].lower()
    (printed_curl,) = re.findall(r"curl -s .*", demo)
    assert set(json.loads(user.run(printed_curl))[0]) == {"probability"}
    status = user.status()
    assert (status["version"], status["rung"], status["ready"]) == ("1", "fp32", True)
    assert status["last_scored_partition"] == "2013-05"
    assert status["drift_verdict"] in {"pass", "fail"}


def test_a_second_demo_runs_nothing_again(user):
    assert "Everything was up to date" in user.run("make demo")


def test_a_bad_request_is_told_which_field(user):
    told = user.run("""curl -s http://127.0.0.1:8080/predict -d '{"rows": [{"carrier": 7}]}'""")
    assert "carrier" in told and "Traceback" not in told


def test_a_new_version_takes_over_without_a_failed_request(user):
    version = _register(user, shuffle=False)
    body = re.findall(r"-d '(.*)'", user.printed["make demo"])[0].encode()
    with Clients(user.port, body) as clients:
        user.run(f".venv/bin/seatrial release models:/{MODEL}@candidate")
    assert set(clients.answers) == {(200, "1"), (200, version)}
    assert user.status()["version"] == version


def test_a_worse_version_stops_at_its_gate_and_production_goes_on(user):
    before = user.status()
    _register(user, shuffle=True)
    told = user.run(f".venv/bin/seatrial release models:/{MODEL}@candidate", expect=1)
    assert "accuracy_non_inferior_to_production" in told
    assert "Traceback" not in told
    assert user.status() == before
    assert not list(user.home.root.rglob("*.partial"))


def test_after_down_nothing_runs_and_a_release_brings_production_back(user):
    before = user.status()
    user.run("make down")
    assert user.processes() == []
    told = user.run(".venv/bin/seatrial demo", expect=1)  # the candidate is still the worse version
    assert "accuracy_non_inferior_to_production" in told
    assert user.status() == before


def test_a_former_version_is_judged_again_and_takes_over(user):
    MlflowRegistry(f"sqlite:///{user.home.mlflow / 'mlflow.db'}").set_alias(MODEL, "candidate", "1")
    printed = user.run(f".venv/bin/seatrial release models:/{MODEL}@candidate")
    assert "flight_delay/bento" not in printed
    assert user.status()["version"] == "1"
