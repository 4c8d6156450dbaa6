"""Twice and five times what a server can do: how much is still answered in time, and how fast it says no."""

from collections.abc import Sequence
from functools import partial

from tests.benchmarks.harness.load import ATTEMPTS, LoadFailed, closed_loop, open_loop
from tests.benchmarks.harness.peers import JSON, Net, serving
from tests.benchmarks.harness.report import show
from tests.benchmarks.harness.rounds import Effort, Figures, take_turns
from tests.benchmarks.serving import nets
from tests.benchmarks.serving.peers import peer

SLO_MS = 200.0
DEADLINE_MS = 0.8 * SLO_MS
"""What the servers are told, so that the way there and back fits into the objective."""
BATCH_ROWS = 8
LIMITS = {2: 0.90, 5: 0.85}
"""times capacity: at least so much of the capacity is answered within the objective."""
REFUSAL_P99_MS = 20.0
MAX_GOODPUT = 1.1
"""More than this share of a capacity cannot be: the capacity was measured wrong."""
NAMES = ("ours", "bentoml", "mosec", "bare")
SEED = 11


def measure(effort: Effort, names: Sequence[str] = NAMES) -> dict:
    """Each peer's capacity, and under each overload the goodput as a share of it and the p99 of refusals."""
    net = nets.heavy(BATCH_ROWS, DEADLINE_MS)
    taken = take_turns({name: partial(_one, name, net, effort.seconds) for name in names}, effort.rounds)
    told = taken.told()
    show(
        f"overload, objective {SLO_MS:g} ms",
        [
            {"peer": name, **{key: figure["median"] for key, figure in told[name].items()}}
            for name in names
            if name not in taken.failed
        ]
        or [{"peer": "none"}],
    )
    return {"slo_ms": SLO_MS, "peers": told}


def _one(name: str, net: Net, seconds: float) -> Figures:
    """Each overload in turn."""
    figures: Figures = {}
    for times in LIMITS:
        found = _overloaded(name, net, times, seconds)
        figures |= {f"{figure}_{times}x": value for figure, value in found.items()}
    return figures


def _overloaded(name: str, net: Net, times: int, seconds: float) -> Figures:
    """A fresh server: its capacity over 32 connections that wait for their answers, and at once the multiple
    of it. Raises LoadFailed where it did more than its capacity, which some neighbour had spoilt then."""
    for _ in range(ATTEMPTS):
        with serving(peer(name), net) as served:
            load = partial(closed_loop, served.url, served.bodies, JSON, folder=served.scratch)
            load(seconds=1)
            capacity_rps = load(seconds=seconds).rps
            rate_rps = times * capacity_rps
            found = open_loop(served.url, served.bodies, JSON, rate_rps, 2 * seconds, SLO_MS, SEED)
        goodput = found.good(SLO_MS) / (2 * seconds) / capacity_rps
        if goodput <= MAX_GOODPUT:
            return {
                "capacity_rps": capacity_rps,
                "goodput": goodput,
                "refused": float(found.refused().mean()),
                "refusal_p99_ms": found.refusal_p99_ms(),
            }
    raise LoadFailed(f"{name} answered {goodput:.2f} times its capacity: the machine was not steady.")
