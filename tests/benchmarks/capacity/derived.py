"""The derived plan beside BentoML's defaults: what is answered within the promise at twice the expected peak.

The peak is such that twice as much is nearly all that our service is foretold to carry on the server's core:
a load for which one plan was made, and which the other meets as it is. What the generator cannot offer from
its own core is not asked for.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from bentos.manifest import Plan
from pipelines.core.capacity.measuring import measure as measure_profile
from pipelines.core.capacity.profile import Profile
from pipelines.core.capacity.proposal import Demand
from pipelines.core.capacity.search import propose
from pipelines.core.capacity.simulation import simulate
from pipelines.core.export import export_onnx
from pipelines.core.latency import Offer, percentile, summarise
from pipelines.core.rows import digest_of
from pipelines.gateways.bento_store import BentoMLStore
from pipelines.gateways.machine import processor
from pipelines.gateways.processes import Command
from tests.benchmarks.capacity.stock import PEER as STOCK
from tests.benchmarks.harness.load import closed_loop, open_loop
from tests.benchmarks.harness.machine import cache, on_the_generators_core
from tests.benchmarks.harness.peers import JSON, Net, Peer, serving
from tests.benchmarks.harness.report import show
from tests.benchmarks.harness.rounds import Effort, Figures, take_turns
from tests.benchmarks.serving import nets
from tests.benchmarks.serving.peers.ours import PEER, PROJECT, Ours, _home, manifest
from tests.zoo import load as load_specimen

MAX_ERROR_RATE = 0.001
PEAK_SHARE = 0.4
"""Of what is foretold that our service can carry: twice the peak leaves the fifth that a search wants."""
MOST_RPS = 4000.0
"""More the generator cannot offer to a server that is overloaded without being late itself."""
VOID_MS = 1000.0
"""A generator that is late by more than a tenth of this offered another load than it should."""
LIMIT = 1.0
"""At least so many times the goodput of BentoML's defaults."""
ROWS = 256
SEED, STEPS, SIMULATED = 31, 10, 5000


def flights() -> Net:
    """The example's net; its clients send the codes of categories, which is less work for both servers."""
    specimen = load_specimen("flights", cache() / "zoo")
    (folder := cache() / "nets").mkdir(parents=True, exist_ok=True)
    export_onnx(specimen.form, specimen.source, folder / "flights.onnx", specimen.contract)
    fields = [replace(field, categories=None, open=False) for field in specimen.contract.inputs]
    contract = replace(specimen.contract, inputs=tuple(fields))
    rows = [{name: of[at].item() for name, of in specimen.holdout.items()} for at in range(ROWS)]
    return Net("flights", folder / "flights.onnx", contract, rows)


@dataclass(frozen=True)
class Case:
    """A net and the p99 that is promised for it."""

    net: Callable[[], Net]
    p99_ms: float


CASES = {
    "flights": Case(flights, 50.0),
    "minilm": Case(partial(nets.minilm, latency_ms=500.0, batch_rows=32), 500.0),
}


@dataclass(frozen=True)
class Planned(Ours):
    """Ours by a plan of its own."""

    plan: Plan = field(default_factory=Plan)

    def command(self, net: Net, port: int, scratch: Path) -> Command:
        packed = manifest(net)
        release = digest_of(packed.release_id, json.dumps(asdict(self.plan)))[:10]
        packed = replace(packed, plan=self.plan, release_id=f"v1-{release}")
        store = BentoMLStore(_home(), PROJECT)
        return store.command(store.build(net.file, packed).tag, port)


def measure(effort: Effort, names: Sequence[str] = tuple(CASES)) -> dict:
    """By net: the demand, the plan that was derived for it, the goodput of both at twice the peak."""
    return {"nets": {name: _compare(name, CASES[name], effort) for name in names}}


def _compare(name: str, case: Case, effort: Effort) -> dict:
    net = case.net()
    profile = _profile(net, case.p99_ms)
    wished = Plan(lengths=net.lengths, max_latency_ms=case.p99_ms)
    peak_rps = min(PEAK_SHARE * capacity_rps(wished, profile, case.p99_ms), MOST_RPS / 2)
    demand = Demand(peak_rps, case.p99_ms, MAX_ERROR_RATE)
    plan = propose(wished, frozenset(), profile, demand).plan
    peers = {"ours": Planned("ours", PEER.folder, PEER.kit, plan), "bentoml": STOCK}
    one = partial(_one, net, 2 * demand.peak_rps, case.p99_ms, effort.seconds)
    taken = take_turns({who: partial(one, peer) for who, peer in peers.items()}, effort.rounds)
    told, ratio = taken.told(), taken.ratio("ours", "bentoml", "goodput_rps")
    rows = [
        {"peer": who, **{key: figure["median"] for key, figure in told[who].items()}}
        for who in peers
        if who not in taken.failed
    ]
    title = f"{name}: {2 * demand.peak_rps:.0f}/s, twice the peak, p99 within {case.p99_ms:g} ms"
    show(title, rows or [{"peer": "none"}])
    return {"demand": asdict(demand), "plan": _told(plan), "peers": told, "ours_to_bentoml": ratio}


def capacity_rps(plan: Plan, profile: Profile, p99_ms: float) -> float:
    """The highest rate at which the promise is foretold to hold, by halving; below the cheapest row's."""
    row_ms = min(ms / rows for rows, _, ms in profile.costs[plan.threads])
    low, high = 0.0, 1000 / max(row_ms, profile.request_us / 1000)
    for _ in range(STEPS):
        rate = (low + high) / 2
        offer = Offer("capacity", rate, SIMULATED / rate)
        samples = simulate(plan, profile, offer, SEED).samples
        stage = summarise(offer, len(samples.status), samples)
        held = stage.p99_ms <= p99_ms and stage.error_rate <= MAX_ERROR_RATE
        low, high = (rate, high) if held else (low, rate)
    return low


def _profile(net: Net, p99_ms: float) -> Profile:
    """On one core, as the servers have but one."""
    with on_the_generators_core():
        return measure_profile(
            net.file, net.contract, [dict(row) for row in net.rows], Plan(lengths=net.lengths), p99_ms,
            time.perf_counter, 1, processor(),
        )  # fmt: skip


def _one(net: Net, rate_rps: float, p99_ms: float, seconds: float, peer: Peer) -> Figures:
    """A fresh server, warmed up, then offered the rate. Where the generator sent late, which it does when a
    server lets connections pile up, neither is held to account for that. None in time counts as one, for the
    ratio's sake."""
    with serving(peer, net) as served:
        closed_loop(served.url, served.bodies, JSON, 1, served.scratch)
        found = open_loop(served.url, served.bodies, JSON, rate_rps, seconds, VOID_MS, SEED)
    samples = found.samples
    latency_ms = samples.latency_ms - (samples.sent_s - samples.intended_s) * 1000
    in_time = int((samples.ok & (latency_ms <= p99_ms)).sum())
    return {
        "goodput_rps": max(1, in_time) / seconds,
        "p99_ms": percentile(latency_ms[samples.ok], 99),
        "unanswered": 1 - float(samples.ok.mean()),
        "lag_p99_ms": found.stage.lag_p99_ms,
    }


def _told(plan: Plan) -> dict:
    names = ("workers", "threads", "max_batch_size", "max_queue_rows", "max_latency_ms")
    return {name: getattr(plan, name) for name in names}
