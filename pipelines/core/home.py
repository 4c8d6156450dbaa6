"""Where everything lies on disk: the one place that knows the layout below SEATRIAL_HOME."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """The root of all state. Methods only compute paths; nothing is created here."""

    root: Path

    def data(self, path: str) -> Path:
        """A path from defs.yaml: absolute, or relative to the root."""
        return self.root / path

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"

    @property
    def bentoml(self) -> Path:
        return self.root / "bentoml"

    @property
    def environments(self) -> Path:
        """Python environments of services, one a set of requirements."""
        return self.root / "environments"

    @property
    def serving(self) -> Path:
        """Supervisor and Envoy: configuration, sockets, logs."""
        return self.root / "serving"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.sqlite"

    def prediction_log(self, model: str) -> Path:
        """What the model's releases in production were asked and answered."""
        return self.root / "prediction_log" / model

    @property
    def evidence(self) -> Path:
        """The files that dossiers speak of, named by their digests."""
        return self.root / "evidence"

    def artifact(self, model: str, version: str, asset: str) -> Path:
        """The folder of one asset of the release path, e.g. artifacts/flight_delay/3/onnx_model."""
        return self.root / "artifacts" / model / version / asset

    def month(self, model: str, asset: str, month: str) -> Path:
        """The folder of one month of scores, drift or performance."""
        return self.root / asset / model / month
