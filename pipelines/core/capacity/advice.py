"""What would have to change where no plan keeps the promise, each found by simulation, in sentences."""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil, floor, log10

from pipelines.core.capacity.candidates import LOOK, Candidates, Found
from pipelines.core.capacity.foresight import HEADROOM, MARGIN, SPARE
from pipelines.core.capacity.reasons import performance, shape_of

FASTER = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Times as fast as this rung; beyond that there is none to be hoped for."""
MOST_HALVINGS, REFINEMENTS = 12, 4
"""Of the rate, until a part of it is held; and until that is known to 4 %."""
LATER, MOST_LATER = 1.3, 6
"""A p99 that cannot be promised is made so many times as large, so often."""


def advice(candidates: Candidates, found: Found, patient: Found | None) -> tuple[str, ...]:
    """Each sentence alone would do. `found` is the best that can, `patient` what `least_promise` says."""
    hints = [*_freed(candidates), *_shared(candidates, found), *_faster(candidates, found)]
    if patient is not None:
        promised = f"a p99 of {patient.plan.max_latency_ms:g} ms could be promised"
        hints.append(f"{promised}: {shape_of(patient.tried)}, {performance(patient.tried)}")
    return tuple(hints) or ("nothing that was simulated would do: a model of another kind is needed",)


def least_promise(candidates: Candidates) -> Found | None:
    """The plan for about the lowest p99 that can be promised at this peak; its deadline is that p99."""
    foresight = candidates.foresight
    promise = max(foresight.demand.p99_ms, min(map(foresight.alone_ms, candidates.shapes())) / MARGIN)
    for _ in range(MOST_LATER):
        demand = replace(foresight.demand, p99_ms=_rounded_up(promise))
        fixed = candidates.fixed - {"max_latency_ms"}
        if found := Candidates(candidates.plan, fixed, replace(foresight, demand=demand), LOOK).first():
            return found
        promise *= LATER
    return None


def _freed(candidates: Candidates) -> Iterator[str]:
    """What a setting keeps from being met."""
    for name in sorted(candidates.fixed):
        fixed = candidates.fixed - {name}
        found = Candidates(candidates.plan, fixed, candidates.foresight, LOOK).first()
        if found:
            change = f"{name} {getattr(found.plan, name)} in place of {getattr(candidates.plan, name)}"
            yield f"{change}: {shape_of(found.tried)}, {performance(found.tried)}"


def _shared(candidates: Candidates, found: Found) -> Iterator[str]:
    """The highest peak of one machine, and how many such machines share the wanted one: each sees a Poisson
    stream as well, of its share (Kingman, "Poisson Processes", 1993, section 5.1)."""
    foresight, rate = candidates.foresight, candidates.foresight.rate_rps

    def holds(rate_rps: float) -> bool:
        return foresight.look(found.plan, LOOK, rate_rps).meets

    lowers = (rate / 2**halvings for halvings in range(1, MOST_HALVINGS))
    if not (low := next(filter(holds, lowers), 0.0)):
        return
    high = 2 * low
    for _ in range(REFINEMENTS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    yield (
        f"a lower peak: {_rounded_down(low / HEADROOM / SPARE):g}/s can be promised here, "
        f"{foresight.demand.peak_rps:g} are expected"
    )
    yield f"{ceil(rate / low)} machines like this one: each holds {_rounded_down(low / SPARE):g}/s"


def _faster(candidates: Candidates, found: Found) -> Iterator[str]:
    """The least that helps, by halving: who is faster is no worse."""
    foresight = candidates.foresight
    looks = {times: foresight.look(found.plan, LOOK, faster=times) for times in FASTER[-1:]}
    if not looks[FASTER[-1]].meets:
        return
    low, high = 0, len(FASTER) - 1
    while low < high:
        middle = (low + high) // 2
        looks[FASTER[middle]] = foresight.look(found.plan, LOOK, faster=FASTER[middle])
        low, high = (low, middle) if looks[FASTER[middle]].meets else (middle + 1, high)
    yield f"a rung {FASTER[high]:g}x as fast: {performance(looks[FASTER[high]])}"


def _rounded_up(value: float) -> float:
    """The next number of two digits that count."""
    step = 10 ** (floor(log10(value)) - 1)
    return float(f"{ceil(value / step - 1e-9) * step:.6g}")


def _rounded_down(value: float) -> float:
    step = 10 ** (floor(log10(value)) - 1)
    return float(f"{floor(value / step + 1e-9) * step:.6g}")
