"""MLServer with a model of its own kind, adaptive batching, and no pool of processes."""

import json
from collections.abc import Mapping
from pathlib import Path

from pipelines.gateways.processes import Command
from tests.benchmarks.harness.peers import Net, Peer
from tests.benchmarks.serving.peers import oip
from tests.benchmarks.serving.peers.plain import plain

BATCH_SECONDS = 0.001


class MLServer(Peer):
    def command(self, net: Net, port: int, scratch: Path) -> Command:
        settings = {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": port + 1,
            "metrics_endpoint": None,
            "debug": False,
            "parallel_workers": 0,
            "gzip_enabled": False,
        }
        model = {
            "name": net.name,
            "implementation": "server.Model",
            "max_batch_size": net.batch_rows,
            "max_batch_time": BATCH_SECONDS,
        }
        (scratch / "settings.json").write_text(json.dumps(settings))
        (scratch / "model-settings.json").write_text(json.dumps(model))
        python, env = self.python(), self.env(net, port, scratch)
        paths = f"{self.kit}:{self.folder}"
        return Command(
            (str(python.with_name("mlserver")), "start", str(scratch)), {**env, "PYTHONPATH": paths}
        )

    def path(self, net: Net) -> str:
        return oip.path(net)

    def body(self, net: Net, row: Mapping) -> bytes:
        return oip.body(net, row)

    def value(self, net: Net, answer: bytes) -> float:
        return oip.value(answer)


PEER = plain("mlserver", MLServer)
