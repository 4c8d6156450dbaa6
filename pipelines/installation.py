"""One installation: every door of it, and the only reader of its environment.

SEATRIAL_HOME         where all state lives; default dagster_home/ of the project
SEATRIAL_PORT         the shared address is 127.0.0.1 at this port; default 8080
MLFLOW_TRACKING_URI   the model registry; default an SQLite file below SEATRIAL_HOME
SEATRIAL_LEDGER_URL   the ledger, postgresql+psycopg://USER:PASSWORD@HOST/NAME; default an SQLite file below
                      SEATRIAL_HOME
"""

import os
import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipelines.core.errors import SettingsInvalid
from pipelines.core.home import Home
from pipelines.gateways.bento_store import BentoMLStore
from pipelines.gateways.client import HttpClient
from pipelines.gateways.deployments import Deployments
from pipelines.gateways.envoy import Envoy
from pipelines.gateways.ledger import Ledger, open_ledger
from pipelines.gateways.notebooks import Papermill
from pipelines.gateways.processes import Command, Supervisor
from pipelines.gateways.registry import MlflowRegistry
from pipelines.gateways.telemetry import LogTelemetry, Telemetry
from pipelines.gateways.traffic import OpenLoop

PROJECT = Path(__file__).parents[1]

QUIET = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DAGSTER_DISABLE_TELEMETRY": "yes",
    "GX_ANALYTICS_ENABLED": "false",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
"""No library reports anything to anyone, and MLflow unpickles nothing."""


@dataclass(frozen=True)
class Installation:
    """Every door of one installation, opened when it is first used."""

    home: Home
    port: int
    tracking_uri: str
    ledger_url: str | None = None

    @classmethod
    def from_environment(cls) -> "Installation":
        """Read the environment, and silence the libraries that would phone home."""
        os.environ.update(QUIET)
        home = Home(Path(os.environ.get("SEATRIAL_HOME") or PROJECT / "dagster_home").resolve())
        default = f"sqlite:///{home.mlflow / 'mlflow.db'}"
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or default
        return cls(home, _port(), tracking_uri, os.environ.get("SEATRIAL_LEDGER_URL"))

    def prepare(self) -> None:
        """Make sure the home has Dagster's settings, and point Dagster to it."""
        self.home.root.mkdir(parents=True, exist_ok=True)
        settings = self.home.root / "dagster.yaml"
        if not settings.exists():
            shutil.copyfile(PROJECT / "dagster_home" / "dagster.yaml", settings)
        os.environ["DAGSTER_HOME"] = str(self.home.root)

    @cached_property
    def registry(self) -> MlflowRegistry:
        return MlflowRegistry(self.tracking_uri)

    @cached_property
    def bentos(self) -> BentoMLStore:
        return BentoMLStore(self.home, PROJECT)

    @cached_property
    def ledger(self) -> Ledger:
        return open_ledger(self.ledger_url, self.home)

    @cached_property
    def deployments(self) -> Deployments:
        processes = Supervisor(self.home)
        envoy = Envoy(self.home, processes, self.port)
        return Deployments(processes, envoy, self.bentos, self.ledger, self._controller)

    @cached_property
    def telemetry(self) -> Telemetry:
        return LogTelemetry(self.home)

    @property
    def _controller(self) -> Command:
        """Runs the process that leads rollouts, in this very installation."""
        env = {"SEATRIAL_HOME": str(self.home.root), "SEATRIAL_PORT": str(self.port)}
        if self.ledger_url:
            env["SEATRIAL_LEDGER_URL"] = self.ledger_url
        return Command((sys.executable, "-m", "pipelines.controller"), env)

    def resources(self) -> dict[str, object]:
        """By the names that the assets ask for."""
        return {
            "home": self.home,
            "registry": self.registry,
            "bentos": self.bentos,
            "ledger": self.ledger,
            "deployments": self.deployments,
            "client": HttpClient(),
            "traffic": OpenLoop(),
            "notebooks": Papermill(PROJECT / "notebooks"),
        }


def _port() -> int:
    text = os.environ.get("SEATRIAL_PORT") or "8080"
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise SettingsInvalid("SEATRIAL_PORT", text, "it must be a port such as 8080")
    return int(text)
