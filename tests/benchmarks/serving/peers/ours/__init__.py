"""Ours: a bento that the pipeline's own gateway built and serves."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from bentos.manifest import Manifest, Plan, Slo, sha256
from pipelines.core.home import Home
from pipelines.core.packing import source_digest
from pipelines.core.rows import digest_of
from pipelines.gateways.bento_store import BentoMLStore
from pipelines.gateways.processes import Command
from tests.benchmarks.harness.peers import Net, Peer
from tests.benchmarks.serving.peers.plain import plain

PROJECT = Path(__file__).parents[5]


class Ours(Peer):
    def command(self, net: Net, port: int, scratch: Path) -> Command:
        store = BentoMLStore(_home(), PROJECT)
        return store.command(store.build(net.file, manifest(net)).tag, port)

    def body(self, net: Net, row: Mapping) -> bytes:
        return json.dumps({"rows": [row]}).encode()

    def value(self, net: Net, answer: bytes) -> float:
        return json.loads(answer)[0][net.contract.outputs[0].name]

    def versions(self) -> list[str]:
        return [f"source {source_digest(PROJECT)[:12]}"]


def manifest(net: Net) -> Manifest:
    """What the pipeline would write; the release is another when the model, plan or code is."""
    plan = Plan(max_batch_size=net.batch_rows, max_latency_ms=net.latency_ms, lengths=net.lengths)
    digest = sha256(net.file)
    release = digest_of(digest, json.dumps(asdict(plan)), source_digest(PROJECT))[:10]
    slo = Slo(p99_ms=net.latency_ms)
    return Manifest(net.name, "1", f"v1-{release}", "fp32", digest, net.contract, plan, slo)


def _home() -> Home:
    """A store of its own beside the installation's, whose environment of the service it shares. Not in the
    cache: BentoML builds nothing below a hidden folder."""
    installed = Path(os.environ.get("SEATRIAL_HOME") or PROJECT / "dagster_home").absolute()
    home = Home(installed / "benchmarks")
    if not home.environments.is_symlink():
        home.environments.parent.mkdir(parents=True, exist_ok=True)
        home.environments.symlink_to(Home(installed).environments)
    return home


PEER = plain("ours", Ours)
