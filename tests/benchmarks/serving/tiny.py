"""One row of a tiny model as JSON, over 32 connections: the CPU time of a request, in the whole tree."""

from collections.abc import Sequence
from functools import partial

from tests.benchmarks.harness.load import LoadFailed, closed_loop
from tests.benchmarks.harness.peers import JSON, Net, serving
from tests.benchmarks.harness.report import show
from tests.benchmarks.harness.rounds import Effort, Figures, take_turns
from tests.benchmarks.serving import nets
from tests.benchmarks.serving.peers import NAMES, peer

LIMITS = {"bentoml": 0.10, "mosec": 1.0, "triton": 1.0, "bare": 2.0}
"""At most so many times the CPU time of a request of theirs."""


def measure(effort: Effort, names: Sequence[str] = NAMES) -> dict:
    """Each peer's CPU time per request and requests per second, and the ratios of our CPU time to theirs."""
    net = nets.tiny()
    taken = take_turns({name: partial(_one, name, net, effort.seconds) for name in names}, effort.rounds)
    ratios = {name: taken.ratio("ours", name, "cpu_us") for name in names if name != "ours"}
    told = taken.told()
    show(
        "tiny model, one row, JSON, 32 connections",
        [
            {
                "peer": name,
                "CPU µs a request": told[name].get("cpu_us", {}).get("median", "–"),
                "requests/s": told[name].get("rps", {}).get("median", "–"),
                "ours ÷ theirs": (ratios.get(name) or {}).get("median", ""),
                "low–high": "{low}–{high}".format(**found) if (found := ratios.get(name)) else "",
                "limit": LIMITS.get(name, ""),
            }
            for name in told
        ],
    )
    return {"peers": told, "ours_to": ratios, "versions": {name: peer(name).versions() for name in names}}


def _one(name: str, net: Net, seconds: float) -> Figures:
    """A fresh server, warmed up, then loaded."""
    with serving(peer(name), net) as served:
        load = partial(closed_loop, served.url, served.bodies, JSON, folder=served.scratch)
        load(seconds=1)
        before = served.tree.cpu_seconds()
        found = load(seconds=seconds)
        cpu_seconds = served.tree.cpu_seconds() - before
    if found.failed:
        raise LoadFailed(f"{name} failed {found.failed} of {found.ok + found.failed} requests.")
    return {"cpu_us": cpu_seconds / found.ok * 1e6, "rps": found.rps}
