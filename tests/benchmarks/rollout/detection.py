"""How often a good canary is stopped by a controller that looks each second, and how many requests a bad one
gets until it is, beside fixed windows on the same traffic.

What is watched is `judge` itself, at each look at which it could find harm: an average of likelihoods is
never more than the best of them, which is quickly reckoned for all looks at once.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import rel_entr

from pipelines.core.rollout.guardrails import ErrorRate, Guardrail, Latency, Metric, Predictions, Split, judge
from tests.benchmarks.harness.report import show
from tests.benchmarks.rollout import windows
from tests.benchmarks.rollout.worlds import BAD, CONVERTED, Counts, World

ALPHA, MIN_REQUESTS, SECONDS, CHUNK = 0.05, 100, 600, 100
NOTHING_ALLOWED = (
    ErrorRate(0),
    Latency(windows.QUANTILE, 1),
    Predictions(0),
    Metric(CONVERTED, "higher", 0, (0, 1)),
    Split(0),
)
"""The hardest plan to keep the promise for: two equal releases are at its edge."""
PLAN = (
    ErrorRate(windows.MAX_INCREASE),
    Latency(windows.QUANTILE, windows.MAX_RATIO),
    Predictions(windows.MAX_DISTANCE),
    Metric(CONVERTED, "higher", 0.05, (0, 1)),
    Split(),
)
Plan, Looks = Sequence[Guardrail], Mapping[str, np.ndarray]
QUANTILE = windows.QUANTILE
EQUAL = {"steady": World(), "few requests": World(rps=10), "bursts of errors in both": World(bursts=True)}
RATES_RPS = (30.0, 100.0, 300.0)
SEED = 17


def false_alarms(runs: int) -> dict:
    """Of equal releases: the share of runs in which harm was found at any look, by guardrail too."""
    told = {name: _stopped_for_nothing(world, runs) for name, world in EQUAL.items()}
    rows = [{plan: shares.get("any", 0) for plan, shares in plans.items()} for plans in told.values()]
    show("false alarms", [{"world": name, **row} for name, row in zip(told, rows, strict=True)])
    return {"alpha": ALPHA, "runs": runs, "looks": SECONDS, "worlds": told}


def detection(runs: int) -> dict:
    """Of bad canaries: requests that reach the canary until it is stopped, and the same for fixed windows."""
    told = {}
    for rps in RATES_RPS:
        for name, release in BAD.items():
            told[f"{name} at {rps:g}/s"] = _until_stopped(World(release, rps), runs)
    show("requests to a bad canary", [{"canary": name, **figures} for name, figures in told.items()])
    return {"alpha": ALPHA, "runs": runs, "canaries": told}


def harmlessness(runs: int) -> dict:
    """Of a good canary: after how many seconds each guardrail, and all of them, find it harmless."""
    world, told = World(), {}
    stable, canary = next(_chunks(world, runs, seconds=1800))
    taken = {guardrail.name: [] for guardrail in PLAN} | {"all": []}
    for run in range(runs):
        first: dict[str, int] = {}
        for second in range(9, 1800, 10):
            seen = judge(world.look(stable, canary, run, second), PLAN, ALPHA, MIN_REQUESTS)
            good = {finding.name for finding in seen.findings if finding.outcome == "harmless"}
            for name in good | ({"all"} if seen.outcome == "harmless" else set()):
                first.setdefault(name, second + 1)
            if "all" in first:
                break
        for name, seconds in taken.items():
            seconds.append(first.get(name, 1800))
    told = {
        name: {"median_s": float(np.median(s)), "p90_s": float(np.quantile(s, 0.9))}
        for name, s in taken.items()
    }
    show(
        "seconds until a good canary is found harmless", [{"guardrail": name, **told[name]} for name in told]
    )
    return {"runs": runs, "guardrails": told, "judge_ms": _judge_ms(world, stable, canary)}


def _stopped_for_nothing(world: World, runs: int) -> dict[str, dict[str, float]]:
    found = {"nothing_allowed": Counter(), "plan": Counter(), "fixed_windows": Counter()}
    for stable, canary in _chunks(world, runs):
        found["fixed_windows"]["any"] += int((windows.rolled_back(stable, canary) <= SECONDS).sum())
        for run in range(len(stable.requests)):
            looks = _doubtful(world, stable, canary, run)
            alarms = _alarms(world, NOTHING_ALLOWED, stable, canary, run, looks)
            found["nothing_allowed"].update(alarms)
            found["plan"].update(alarms and _alarms(world, PLAN, stable, canary, run, looks))
    return {plan: {key: n / runs for key, n in sorted(counts.items())} for plan, counts in found.items()}


def _until_stopped(world: World, runs: int) -> dict:
    ours, fixed, seconds = [], [], []
    for stable, canary in _chunks(world, runs):
        windowed = windows.rolled_back(stable, canary)
        for run, second in enumerate(windowed):
            stopped = _first_harm(world, stable, canary, run)
            seconds.append(stopped + 1)
            ours.append(canary.requests[run, stopped])
            fixed.append(canary.requests[run, min(second, SECONDS) - 1])
    return {
        "median_s": float(np.median(seconds)),
        "p90_s": float(np.quantile(seconds, 0.9)),
        "requests": float(np.mean(ours)),
        "fixed_requests": float(np.mean(fixed)),
        "ratio": round(float(np.mean(ours) / np.mean(fixed)), 3),
        "p90_ratio": round(float(np.quantile(np.array(ours) / np.array(fixed), 0.9)), 3),
    }


def _first_harm(world: World, stable: Counts, canary: Counts, run: int) -> int:
    for second in np.flatnonzero(np.any(list(_doubtful(world, stable, canary, run).values()), axis=0)):
        if judge(world.look(stable, canary, run, second), PLAN, ALPHA, MIN_REQUESTS).outcome == "harm":
            return int(second)
    return SECONDS - 1


def _alarms(world: World, plan: Plan, stable: Counts, canary: Counts, run: int, looks: Looks) -> set[str]:
    """The guardrails that find harm at any of the looks that are doubtful for them, and "any" if one does."""
    found = set()
    for guardrail, doubtful in zip(plan, looks.values(), strict=True):
        for second in np.flatnonzero(doubtful):
            look = world.look(stable, canary, run, int(second))
            if judge(look, [guardrail], ALPHA / len(plan), MIN_REQUESTS).outcome == "harm":
                found |= {guardrail.name, "any"}
                break
    return found


def _chunks(world: World, runs: int, seconds: int = SECONDS):
    rng = np.random.default_rng(SEED)
    for start in range(0, runs, CHUNK):
        yield world.simulate(rng, min(CHUNK, runs - start), seconds)


def _doubtful(world: World, stable: Counts, canary: Counts, run: int) -> Looks:
    """At which looks the best of likelihoods speaks against harmlessness, by guardrail, (seconds,) each."""
    one, other = ({key: value[run] for key, value in vars(arm).items()} for arm in (stable, canary))
    requests, total = (arm["requests"][:, None] for arm in (one, other))
    late, canary_late = one["latencies"].cumsum(1), other["latencies"].cumsum(1)
    at = (late >= QUANTILE * requests).argmax(1)[:, None]
    slow = total - np.take_along_axis(canary_late, at, 1)

    def apart(hits, canary_hits):
        return _told_apart(hits, requests, canary_hits, total)

    best = {
        "error_rate": apart(one["errors"][:, None], other["errors"][:, None]),
        "latency": np.where(slow > (1 - QUANTILE) * total, _entropy(slow, total, 1 - QUANTILE), 0),
        "predictions": apart(one["answers"].cumsum(1)[:, :-1], other["answers"].cumsum(1)[:, :-1]),
        "converted": apart(one["converted"][:, None], other["converted"][:, None]),
        "split": _entropy(total, requests + total, world.share),
    }
    return {name: found.max(1) >= np.log(len(PLAN) / ALPHA) for name, found in best.items()}


def _told_apart(hits, trials, canary_hits, canary_trials) -> np.ndarray:
    """The log-likelihood of two rates above that of one."""
    together = (hits + canary_hits) / np.maximum(trials + canary_trials, 1)
    return _entropy(hits, trials, together) + _entropy(canary_hits, canary_trials, together)


def _entropy(hits, trials, rate) -> np.ndarray:
    return rel_entr(hits, trials * rate) + rel_entr(trials - hits, trials * (1 - rate))


def _judge_ms(world: World, stable: Counts, canary: Counts) -> float:
    """The time of one look at everything, as a median."""
    taken = []
    for second in range(0, 600, 3):
        look = world.look(stable, canary, 0, second)
        started = time.perf_counter()
        judge(look, PLAN, ALPHA, MIN_REQUESTS)
        taken.append(1000 * (time.perf_counter() - started))
    return round(float(np.median(taken)), 2)
