"""The plans that a machine allows, fewest cores first, and the first of them that keeps a promise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, product
from math import ceil, log2

from bentos.batching.costs import Costs
from bentos.manifest import Plan
from pipelines.core.capacity.foresight import Foresight, cores_of
from pipelines.core.capacity.proposal import Tried

LOOK, PROOF = 3000, 20_000
"""Requests of a brief look, and of the simulation that decides: 200 of the latter lie above the p99."""
OPTIMISM = 1.25
"""The formula may be wrong by so much to either side, so it excludes nothing nearer than that."""
WORTH = 1.05
"""A larger batch must save more than this of a row's CPU time, or it only makes others wait."""
ATTEMPTS = 3
"""Batches half as large, and again, where the largest that are worth it keep others waiting."""


@dataclass(frozen=True)
class Found:
    """A plan, and what it does at the rate that it must hold."""

    plan: Plan
    tried: Tried


@dataclass
class Candidates:
    """`fixed` are the names of what must stay in `plan`, `proof` the requests of the simulation that decides;
    `tried` is all that was simulated."""

    plan: Plan
    fixed: frozenset[str]
    foresight: Foresight
    proof: int = PROOF
    tried: list[Tried] = field(default_factory=list)

    def best(self) -> Found:
        """The first plan that keeps the promise; else the one with the most answers in time."""
        return self.first() or self._least_bad()

    def first(self) -> Found | None:
        """The best of the fewest cores that keep the promise."""
        for _, group in groupby(self.shapes(), _resources):
            shapes = list(group)
            for attempt in range(ATTEMPTS):
                looks = [self.look(plan) for plan in self._sized(shapes, attempt) if self._could(plan)]
                for found in sorted(looks, key=_merit):
                    if found.tried.meets and (proof := self.look(found.plan, self.proof)).tried.meets:
                        return proof
        return None

    def shapes(self) -> list[Plan]:
        """Workers, threads and replicas that the machine's cores allow, fewest first; the least of all where
        the settings leave no others."""
        profile, plan = self.foresight.profile, self.plan
        streams = sorted(profile.crowding) if plan.device == "cuda" else [1]
        free = {
            "workers": range(1, profile.cores + 1),
            "threads": sorted(profile.costs),
            "replicas": streams,
        }
        numbers = ([getattr(plan, name)] if name in self.fixed else free[name] for name in free)
        plans = [replace(plan, **dict(zip(free, found, strict=True))) for found in product(*numbers)]
        plans.sort(key=_resources)
        return [each for each in plans if cores_of(each) <= profile.cores] or plans[:1]

    def look(self, plan: Plan, requests: int = LOOK) -> Found:
        self.tried.append(self.foresight.look(plan, requests))
        return Found(plan, self.tried[-1])

    def fitting(self, plan: Plan) -> list[int]:
        """Rows of the batches that were measured and take no longer than was promised; one row at least."""
        measured, limit = self._measured(plan), self.foresight.demand.p99_ms
        return [rows for rows in measured if self.foresight.run_ms(plan, rows) <= limit] or measured[:1]

    def worth(self, plan: Plan) -> int:
        """Rows of the smallest batch that costs about as little a row as any that fits."""
        fitting, row_us = self.fitting(plan), self.foresight.row_us
        enough = WORTH * min(row_us(plan, rows) for rows in fitting)
        return next(rows for rows in fitting if row_us(plan, rows) <= enough)

    def _measured(self, plan: Plan) -> list[int]:
        return sorted({rows for rows, _, _ in self.foresight.profile.costs[plan.threads]})

    def _sized(self, shapes: Sequence[Plan], attempt: int) -> Iterator[Plan]:
        """Each with batches of its own size, halved so many times."""
        for shape in shapes:
            if "max_batch_size" in self.fixed:
                sizes = [shape.max_batch_size]
            else:
                sizes = [rows for rows in self.fitting(shape) if rows <= self.worth(shape)][::-1]
            if attempt < len(sizes):
                yield self._completed(shape, sizes[attempt])

    def _completed(self, shape: Plan, rows: int) -> Plan:
        plan, promised = replace(shape, max_batch_size=rows), self.foresight.demand.p99_ms
        if "max_batch_size" not in self.fixed or (plan.device == "cuda" and not plan.padded_batch_sizes):
            smaller = (each for each in self._measured(plan) if each < rows)
            plan = replace(plan, padded_batch_sizes=(*smaller, rows) if plan.device == "cuda" else ())
        if "max_latency_ms" not in self.fixed:
            plan = replace(plan, max_latency_ms=promised)
        plan = replace(plan, costs=self.foresight.costs_for(plan))
        if "max_queue_rows" not in self.fixed:
            plan = replace(plan, max_queue_rows=self._queue_rows(plan))
        return plan

    def _queue_rows(self, plan: Plan) -> int:
        """What sessions can work off before the deadline, if rows are short; as a power of two, so that noise
        in what was measured makes no other plan. It is a backstop: who would be late is refused anyway."""
        most, length = plan.max_batch_size, min(length for _, length, _ in plan.costs)
        batches = plan.max_latency_ms / 1000 / Costs(plan.costs).seconds(most, length)
        return 2 ** ceil(log2(max(1.0, batches) * most * plan.replicas))

    def _least_bad(self) -> Found:
        """Of the plans with the most cores."""
        *_, largest = (list(group) for _, group in groupby(self.shapes(), _resources))
        looks = [self.look(plan) for attempt in range(ATTEMPTS) for plan in self._sized(largest, attempt)]
        return self.look(min(looks, key=self._shortfall).plan, self.proof)

    def _could(self, plan: Plan) -> bool:
        """Whether the formula leaves it a chance."""
        foresight = self.foresight
        is_quick = foresight.alone_ms(plan) <= OPTIMISM * foresight.demand.p99_ms
        return is_quick and OPTIMISM * foresight.capacity_rps(plan) >= foresight.rate_rps

    def _shortfall(self, found: Found) -> tuple[float, float]:
        """Least for the most answers in time; of about as many for the lowest p99."""
        return -round(found.tried.goodput_rps / self.foresight.rate_rps, 2), found.tried.p99_ms


def _resources(plan: Plan) -> tuple[int, int]:
    return cores_of(plan), plan.replicas


def _merit(found: Found) -> tuple[float, int]:
    """Of equal cores: the lowest p99, by two digits, and then the smaller batch."""
    return float(f"{found.tried.p99_ms:.2g}"), found.plan.max_batch_size
