"""A client without a network: asks the ONNX file that the fake store packed for the release."""

import json
from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter

from bentos.contract import Contract
from bentos.engines.engine import Engine
from bentos.manifest import Manifest, verified_model
from bentos.schema import columns, prediction_type, predictions, row_type
from bentos.watching.metrics import Metrics
from pipelines.core.texts import Tokenizes, tokenizer_of
from pipelines.gateways.client import Client
from tests.fakes.bento_store import FakeBentoStore


def asked(contract: Contract, rows: Sequence[Mapping], tokenizer: Tokenizes | None) -> list[dict]:
    """Rows as the service takes them from JSON, with tokens in place of texts."""
    given = TypeAdapter(list[row_type(contract)]).validate_json(json.dumps(rows))
    text = contract.text.name if contract.text else None
    return [{**row, **tokenizer.rows([row[text]])[0]} if tokenizer and text in row else row for row in given]


class FakeClient(Client):
    """Knows the URLs of `FakeDeployments`, fake://TAG. Rows and answers pass through JSON and the service's
    types. Every answer is off by `error`."""

    def __init__(self, bentos: FakeBentoStore, error: float = 0.0) -> None:
        self.bentos, self.error = bentos, error

    def predict(self, url: str, rows: Sequence[Mapping]) -> list[dict]:
        folder = self.bentos.folder.joinpath(*url.removeprefix("fake://").split(":"))
        manifest = Manifest.load(folder)
        contract = manifest.contract
        given = asked(contract, rows, tokenizer_of(contract, folder))
        outputs = Engine(verified_model(folder, manifest), contract).predict(columns(contract, given))
        answers = predictions(
            {name: values + self.error if self.error else values for name, values in outputs.items()}
        )
        return TypeAdapter(list[prediction_type(contract)]).validate_json(json.dumps(answers))

    def metrics(self, url: str) -> str:
        """What a service says that was never asked."""
        return Metrics().render().decode()
