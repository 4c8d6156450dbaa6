"""One installation: every door of it, and the only reader of its environment.

SEATRIAL_HOME         where all state lives; default dagster_home/ of the project
SEATRIAL_PORT         the shared address is 127.0.0.1 at this port; default 8080
MLFLOW_TRACKING_URI   the model registry; default an SQLite file below SEATRIAL_HOME
SEATRIAL_API_KEYS     a file of clients and their keys, a pair a line, which the router then asks for; default
                      none: anyone on this machine may ask
SEATRIAL_LEDGER_URL   the ledger, postgresql+psycopg://USER:PASSWORD@HOST/NAME; default an SQLite file below
                      SEATRIAL_HOME
SEATRIAL_CONTAINER_ENGINE   podman, docker or buildah; default the first that is there
SEATRIAL_BASE_IMAGE         what images are built on; default BentoML's choice
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
from pipelines.gateways.containers import OciContainers
from pipelines.gateways.deployments import Deployments
from pipelines.gateways.envoy import Envoy
from pipelines.gateways.ledger import Ledger, open_ledger
from pipelines.gateways.notebooks import Papermill
from pipelines.gateways.processes import Command, Supervisor
from pipelines.gateways.registry import MlflowRegistry
from pipelines.gateways.services import free_port
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
    api_keys: Path | None = None
    engine: str | None = None
    base_image: str | None = None

    @classmethod
    def from_environment(cls) -> "Installation":
        """Read the environment, and silence the libraries that would phone home."""
        os.environ.update(QUIET)
        home = Home(Path(os.environ.get("SEATRIAL_HOME") or PROJECT / "dagster_home").resolve())
        default = f"sqlite:///{home.mlflow / 'mlflow.db'}"
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or default
        keys = os.environ.get("SEATRIAL_API_KEYS")
        return cls(
            home,
            _port(),
            tracking_uri,
            os.environ.get("SEATRIAL_LEDGER_URL") or None,
            Path(keys).resolve() if keys else None,
            os.environ.get("SEATRIAL_CONTAINER_ENGINE") or None,
            os.environ.get("SEATRIAL_BASE_IMAGE") or None,
        )

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
        envoy = Envoy(self.home, processes, self.port, keys=_keys(self.api_keys))

        def staging() -> Envoy:
            return Envoy(self.home, processes, free_port(), name="envoy.stage")

        return Deployments(
            processes, envoy, self.bentos, self.ledger, self.containers, self._controller, staging
        )

    @cached_property
    def containers(self) -> OciContainers:
        return OciContainers(self.home, dict(os.environ), self.engine, self.base_image)

    @cached_property
    def telemetry(self) -> Telemetry:
        return LogTelemetry(self.home)

    @property
    def _controller(self) -> Command:
        """Runs the process that leads rollouts, in this very installation."""
        env = {"SEATRIAL_HOME": str(self.home.root), "SEATRIAL_PORT": str(self.port)}
        if self.ledger_url:
            env["SEATRIAL_LEDGER_URL"] = self.ledger_url
        if self.api_keys:
            env["SEATRIAL_API_KEYS"] = str(self.api_keys)
        return Command((sys.executable, "-m", "pipelines.controller"), env)

    def resources(self) -> dict[str, object]:
        """By the names that the assets ask for."""
        return {
            "home": self.home,
            "registry": self.registry,
            "bentos": self.bentos,
            "ledger": self.ledger,
            "deployments": self.deployments,
            "containers": self.containers,
            "client": HttpClient(),
            "traffic": OpenLoop(),
            "notebooks": Papermill(PROJECT / "notebooks"),
        }


def _port() -> int:
    text = os.environ.get("SEATRIAL_PORT") or "8080"
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise SettingsInvalid("SEATRIAL_PORT", text, "it must be a port such as 8080")
    return int(text)


def _keys(path: Path | None) -> dict[str, str] | None:
    """{client: key}, from lines such as `billing 6f1c…`; # begins a remark."""
    if path is None:
        return None
    try:
        lines = [line.partition("#")[0].split() for line in path.read_text().splitlines()]
    except OSError as error:
        mend = f"it can't be read ({error.strerror}): give a file of clients and their keys"
        raise SettingsInvalid("SEATRIAL_API_KEYS", str(path), mend) from error
    pairs = [line for line in lines if line]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise SettingsInvalid("SEATRIAL_API_KEYS", str(path), "each line of it must be a client and its key")
    keys: dict[str, str] = dict(pairs)
    return keys
