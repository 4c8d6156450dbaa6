"""What a new user does, in order: every command of the README, then a version that is rolled out, a
worse one, a day on which all was off, and going back.

The commands are read from README.md and run as they stand there, but for the port and the place of the state.
"""

import http.client
import json
import os
import random
import re
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipelines.core.contracts import load_contract
from pipelines.core.home import Home
from pipelines.core.rows import to_records
from pipelines.gateways.alias import CHAMPION
from pipelines.gateways.deployments import CONTROLLER
from pipelines.gateways.processes import Supervisor
from pipelines.gateways.registry import MlflowRegistry
from pipelines.gateways.services import free_port

pytestmark = pytest.mark.e2e

PROJECT = Path(__file__).parents[2]
MODEL = "flight_delay"
RPS, USERS, ROWS, THREADS = 500, 5000, 2000, 8
TOO_LATE = (429, 504)
"""What a service says that gets too little of the machine, as beside a load test, which takes every core."""


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

    @property
    def registry(self) -> MlflowRegistry:
        return MlflowRegistry(f"sqlite:///{self.home.mlflow / 'mlflow.db'}")

    def supervised(self) -> set[str]:
        """The names of what is kept running."""
        return set(Supervisor(self.home).states())

    def processes(self) -> list[psutil.Process]:
        """Every process that knows of this home."""
        found = psutil.process_iter(["cmdline", "environ"])
        return [p for p in found if str(self.home.root) in f"{p.info['cmdline']} {p.info['environ']}"]


class Clients:
    """Many users who ask for predictions of real rows while the block runs, `rps` requests a second, and at
    the full rate once two versions answer: a rollout needs many requests, the load test the whole machine.
    `answers` are (status, version); TOO_LATE is no fault of a rollout."""

    def __init__(self, port: int, bodies: Sequence[bytes], rps: float = RPS) -> None:
        self.port, self.bodies, self.rps = port, bodies, rps
        self.answers: set[tuple[int, str | None]] = set()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(THREADS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> set[tuple[int, str | None]]:
        return {(status, version) for status, version in self.answers.copy() if status not in TOO_LATE}

    def _ask(self, seed: int) -> None:
        dice, connection = random.Random(seed), http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self._over.wait(THREADS / self.rps):
            self.answers.add(self._one(connection, dice))
            if len(self.answered) > 1:
                self.rps = RPS
        connection.close()

    def _one(self, connection: http.client.HTTPConnection, dice: random.Random) -> tuple[int, str | None]:
        headers = {"content-type": "application/json", "x-user-id": f"user-{dice.randrange(USERS)}"}
        try:
            connection.request("POST", "/predict", dice.choice(self.bodies), headers)
            response = connection.getresponse()
            response.read()
            return response.status, response.headers["x-model-version"]
        except (OSError, http.client.HTTPException):
            connection.close()
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


@pytest.fixture(scope="module")
def bodies(user) -> list[bytes]:
    """Requests, of a row of the holdout each."""
    import pandas as pd

    rows = pd.read_parquet(user.home.data("data/flight_delay/holdout.parquet")).sample(ROWS, random_state=1)
    contract = load_contract(user.home.artifact(MODEL, "1", "release_model"))
    return [json.dumps({"rows": [row]}).encode() for row in to_records(contract, rows)]


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
    version = train.register(user.registry, train.train(feeds, rows[LABEL].to_numpy())[0], contract, feeds)
    user.registry.set_alias(MODEL, "candidate", version)
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


def test_a_new_version_is_rolled_out_without_a_failed_request(user, bodies):
    version = _register(user, shuffle=False)
    with Clients(user.port, bodies, rps=20) as clients:
        user.run(f".venv/bin/seatrial release models:/{MODEL}@candidate")
    assert clients.answered == {(200, "1"), (200, version)}
    status = user.status()
    assert (status["version"], status["ready"]) == (version, True)
    assert user.registry.resolve(MODEL, CHAMPION) == version
    assert "holds" in user.run(".venv/bin/seatrial ledger verify")
    told = user.run(f".venv/bin/seatrial ledger show {MODEL}")
    assert re.findall(r"│ (deployed|started|moved|promoted) ", told) == [
        "deployed", "started", "moved", "promoted",
    ]  # fmt: skip
    assert "does not hold" not in user.run(f".venv/bin/seatrial dossier {status['release_id']}")


def test_a_worse_version_stops_at_its_gate_and_production_goes_on(user):
    before = user.status()
    _register(user, shuffle=True)
    told = user.run(f".venv/bin/seatrial release models:/{MODEL}@candidate", expect=1)
    assert "accuracy_non_inferior_to_production" in told
    assert "Traceback" not in told
    assert user.status() == before
    assert not list(user.home.root.rglob("*.partial"))


def test_after_down_nothing_runs_and_a_release_brings_all_of_it_back(user):
    before, supervised = user.status(), user.supervised()
    assert {CONTROLLER, "envoy"} < supervised and len(supervised) == 4  # and production, and its standby
    user.run("make down")
    assert user.processes() == []
    user.registry.set_alias(MODEL, "candidate", "2")
    user.run(f".venv/bin/seatrial release models:/{MODEL}@candidate")
    assert (user.status(), user.supervised()) == (before, supervised)


def test_going_back_and_forth_takes_a_command_each_and_fails_no_request(user, bodies):
    with Clients(user.port, bodies) as clients:
        for version in ("1", "2"):
            user.run(f".venv/bin/seatrial rollback {MODEL}")
            assert user.status()["version"] == user.registry.resolve(MODEL, CHAMPION) == version
    assert clients.answered == {(200, "1"), (200, "2")}
