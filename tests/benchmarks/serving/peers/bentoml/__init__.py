"""BentoML's own batchable API, served by `bentoml serve` as its documents show."""

import json
from collections.abc import Mapping
from pathlib import Path

from pipelines.gateways.processes import Command
from tests.benchmarks.harness.peers import Net, Peer
from tests.benchmarks.serving.peers.plain import plain


class BentoML(Peer):
    def command(self, net: Net, port: int, scratch: Path) -> Command:
        serve = ("-m", "bentoml", "serve", "server:Model", "--host", "127.0.0.1", "--port", str(port))
        own = {"BENTOML_HOME": str(scratch / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
        return Command((str(self.python()), *serve), {**self.env(net, port, scratch), **own})

    def body(self, net: Net, row: Mapping) -> bytes:
        return json.dumps({"rows": [row]}).encode()

    def value(self, net: Net, answer: bytes) -> float:
        return json.loads(answer)[0]


PEER = plain("bentoml", BentoML)
