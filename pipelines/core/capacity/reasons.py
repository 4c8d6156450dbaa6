"""Why a plan is as it is, in sentences with figures that a person can follow."""

from collections.abc import Iterator
from dataclasses import replace

from bentos.manifest import Plan
from pipelines.core.capacity.candidates import Candidates, Found
from pipelines.core.capacity.foresight import HEADROOM, SPARE, cores_of
from pipelines.core.capacity.proposal import Tried


def reasons(candidates: Candidates, found: Found) -> tuple[str, ...]:
    """What it does at the rate that it must hold, and why no less and no more of each."""
    plan = found.plan
    return (
        _promise(candidates, found.tried),
        *_fewer_cores(candidates, plan),
        *_threads(candidates, plan),
        *_batch(candidates, plan),
        *_queue(candidates, plan),
        *_by_hand(candidates),
    )


def shape_of(plan: Plan | Tried) -> str:
    """E.g. "2 workers with 1 thread each"."""
    workers, threads = _number(plan.workers, "worker"), _number(plan.threads, "thread")
    shape = f"{workers} with {threads}{' each' if plan.workers > 1 else ''}"
    return shape if plan.replicas == 1 else f"{shape} and {plan.replicas} sessions in a process"


def performance(tried: Tried) -> str:
    """E.g. "p99 3.1 ms, batches of 1.2 rows, busy 2 % of the time"."""
    refused = f", {tried.error_rate:.2%} of the requests refused or too late" if tried.error_rate else ""
    batches = f"batches of {tried.mean_batch:.1f} rows on average"
    return f"p99 {tried.p99_ms:.3g} ms, {batches}, sessions busy {tried.busy:.0%} of the time{refused}"


def _promise(candidates: Candidates, tried: Tried) -> str:
    demand = candidates.foresight.demand
    rate = f"{HEADROOM * demand.peak_rps:g}/s, twice the expected peak"
    foretold = f"with {SPARE - 1:.0%} more a simulation says {performance(tried)}"
    if tried.meets:
        return f"{shape_of(tried)} should hold {rate}, within {demand.p99_ms:g} ms: {foretold}"
    return (
        f"nothing here would hold {rate}, within {demand.p99_ms:g} ms; {shape_of(tried)} would answer "
        f"{tried.goodput_rps / tried.rate_rps:.1%} in time: {foretold}"
    )


def _fewer_cores(candidates: Candidates, plan: Plan) -> Iterator[str]:
    """The best that the next smaller number of cores can do."""
    smaller = [shape for shape in candidates.shapes() if cores_of(shape) < cores_of(plan)]
    if not smaller:
        return
    cores = max(map(cores_of, smaller))
    seen = [tried for tried in candidates.tried if tried.cores == cores]
    if seen:
        best = max(seen, key=lambda tried: (tried.goodput_rps, -tried.p99_ms))
        yield f"{shape_of(best)} would not do: {performance(best)}"
        return
    foresight = candidates.foresight
    sized = [replace(s, max_batch_size=candidates.worth(s)) for s in smaller if cores_of(s) == cores]
    best = max(sized, key=foresight.capacity_rps)
    yield (
        f"{shape_of(best)} would not do: at most about {foresight.capacity_rps(best):.0f}/s, and a request "
        f"that meets no other takes up to {foresight.alone_ms(best):.3g} ms"
    )


def _threads(candidates: Candidates, plan: Plan) -> Iterator[str]:
    if "threads" in candidates.fixed:
        return
    foresight, rows = candidates.foresight, plan.max_batch_size
    others = sorted(foresight.profile.costs)
    at = others.index(plan.threads)
    if len(others) == 1:
        return
    few, many = (others[at - 1], plan.threads) if at else (plan.threads, others[1])
    few_ms, many_ms = (foresight.run_ms(replace(plan, threads=of), rows) for of in (few, many))
    speedup, than = max(1.0, few_ms / many_ms), _number(few, "thread")
    yield (
        f"{many} threads make a batch of {rows} {speedup:.2g}x as fast as {than}, {many_ms:.3g} ms in place "
        f"of {few_ms:.3g}, and take {many / few:g}x the cores"
    )


def _batch(candidates: Candidates, plan: Plan) -> Iterator[str]:
    foresight, rows, limit = candidates.foresight, plan.max_batch_size, candidates.foresight.demand.p99_ms
    if "max_batch_size" in candidates.fixed:
        return
    takes = f"batches of up to {rows} take {foresight.run_ms(plan, rows):.3g} ms"
    twice_ms = foresight.run_ms(plan, 2 * rows)
    if twice_ms > limit:
        yield f"{takes}: {2 * rows} rows would take {twice_ms:.3g}, of {limit:g} that were promised"
    elif rows < candidates.worth(plan):
        yield f"{takes}: {2 * rows} rows would take {twice_ms:.3g} and keep others waiting for too long"
    else:
        saves = 1 - foresight.row_us(plan, 2 * rows) / foresight.row_us(plan, rows)
        yield f"{takes}: {2 * rows} rows would save only {max(0, saves):.0%} of a request's CPU time"


def _queue(candidates: Candidates, plan: Plan) -> Iterator[str]:
    if "max_queue_rows" not in candidates.fixed:
        yield (
            f"{plan.max_queue_rows} rows may wait for a process: that many could at best be answered within "
            f"{plan.max_latency_ms:g} ms"
        )


def _by_hand(candidates: Candidates) -> Iterator[str]:
    if candidates.fixed:
        fixed = (f"{name} {getattr(candidates.plan, name)}" for name in sorted(candidates.fixed))
        yield f"set by hand: {', '.join(fixed)}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
