"""A client without a network: asks the ONNX file that the fake store packed for the release."""

from collections.abc import Mapping, Sequence

from bentos.engine import Engine
from bentos.manifest import Manifest, verified_model
from bentos.schema import columns, predictions
from pipelines.gateways.client import Client
from tests.fakes.bento_store import FakeBentoStore


class FakeClient(Client):
    """Knows the URLs of `FakeDeployments`, fake://TAG. Every answer is off by `error`."""

    def __init__(self, bentos: FakeBentoStore, error: float = 0.0) -> None:
        self.bentos, self.error = bentos, error

    def predict(self, url: str, rows: Sequence[Mapping]) -> list[dict]:
        folder = self.bentos.folder.joinpath(*url.removeprefix("fake://").split(":"))
        manifest = Manifest.load(folder)
        engine = Engine(verified_model(folder, manifest), manifest.contract)
        outputs = engine.predict(columns(manifest.contract, [dict(row) for row in rows]))
        return predictions({name: values + self.error for name, values in outputs.items()})
