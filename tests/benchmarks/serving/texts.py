"""MiniLM with texts of many lengths: the highest load of which 99 % is answered within the objective."""

from collections.abc import Sequence
from functools import partial

from tests.benchmarks.harness.load import LoadFailed, closed_loop, open_loop
from tests.benchmarks.harness.peers import JSON, Net, Served, serving
from tests.benchmarks.harness.report import show
from tests.benchmarks.harness.rounds import Effort, Figures, take_turns
from tests.benchmarks.serving import nets
from tests.benchmarks.serving.peers import peer

SLO_MS = 500.0
DEADLINE_MS = 0.8 * SLO_MS
SHARE = 0.99
LIMIT = 1.5
"""At least so many times the goodput of stock BentoML, at whichever size of batches suits it best."""
BATCH_ROWS = {"ours": (32,), "bentoml": (4, 16)}
STEPS = 6
SEED = 21


def measure(effort: Effort, names: Sequence[str] = tuple(BATCH_ROWS)) -> dict:
    """Goodput of each peer at each of its batch sizes, and the ratios of ours to theirs."""
    turns = {
        f"{name} {rows}": partial(_one, name, nets.minilm(DEADLINE_MS, rows), effort.seconds)
        for name in names
        for rows in BATCH_ROWS[name]
    }
    taken = take_turns(turns, effort.rounds)
    told = taken.told()
    ratios = {name: taken.ratio("ours 32", name, "goodput_rps") for name in turns if name != "ours 32"}
    show(
        f"MiniLM, texts of 4 to {nets.LENGTHS[-1]} tokens, p99 within {SLO_MS:g} ms",
        [
            {
                "peer, batch rows": name,
                "goodput/s": told[name].get("goodput_rps", {}).get("median", "–"),
                "capacity/s": told[name].get("capacity_rps", {}).get("median", "–"),
                "ours ÷ theirs": (ratios.get(name) or {}).get("median", ""),
            }
            for name in told
        ],
    )
    return {"slo_ms": SLO_MS, "peers": told, "ours_to": ratios}


def _one(name: str, net: Net, seconds: float) -> Figures:
    with serving(peer(name), net) as served:
        load = partial(closed_loop, served.url, served.bodies, JSON, folder=served.scratch)
        load(seconds=1)
        capacity_rps = load(seconds=seconds).rps
        return {"goodput_rps": _goodput(served, capacity_rps, 2 * seconds), "capacity_rps": capacity_rps}


def _goodput(served: Served, capacity_rps: float, seconds: float) -> float:
    """By halving between nothing and twice the capacity, as what a server refuses while that is measured does
    not count. Raises LoadFailed when no load went well."""
    low, high, goodput = 0.0, 2 * capacity_rps, 0.0
    for step in range(STEPS):
        rate = (low + high) / 2
        found = open_loop(served.url, served.bodies, JSON, rate, seconds, SLO_MS, SEED + 10 * step)
        good = found.good(SLO_MS)
        if good >= SHARE * found.stage.planned:
            low, goodput = rate, good / seconds
        else:
            high = rate
    if not goodput:
        raise LoadFailed(f"{served.url} kept its objective at no load; the last was {high:.1f}/s.")
    return goodput
