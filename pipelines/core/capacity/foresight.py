"""What a plan would do: roughly by a formula, at once, or by a simulation of the service, in a second."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bentos.batching.batcher import INLINE_SECONDS
from bentos.batching.costs import Costs
from bentos.manifest import Cost, Plan
from pipelines.core.capacity.profile import Profile
from pipelines.core.capacity.proposal import Demand, Tried
from pipelines.core.capacity.simulation import Run
from pipelines.core.latency import Offer, percentile

HEADROOM = 2.0
"""A plan must hold at so many times the expected peak."""
MARGIN, SPARE = 0.8, 1.05
"""What a simulation may use up of p99 and error budget, and how many times as many requests it is given:
near saturation 5 % more decide, so it is judged where it would be if it were wrong by 15 and 5 %."""
NO_END = 10**6
"""Cores, where it is a GPU that sessions share."""

Simulate = Callable[[Plan, Profile, Offer, int], Run]


@dataclass(frozen=True)
class Foresight:
    """Of plans for one model on one machine, by a demand."""

    profile: Profile
    demand: Demand
    seed: int
    simulate: Simulate

    @property
    def rate_rps(self) -> float:
        """What a plan must hold, in a simulation."""
        return HEADROOM * SPARE * self.demand.peak_rps

    def run_ms(self, plan: Plan, rows: int) -> float:
        """A batch of rows of one bucket, on average over what is asked, alone on the machine."""
        costs = self._costs[plan.threads]
        return 1000 * sum(costs.seconds(rows, length) * share for length, share in self._shares.items())

    def row_us(self, plan: Plan, rows: int) -> float:
        """CPU time of a request of one row that shares a batch of so many, where one process does all."""
        return self.profile.request_us + 1000 * self.run_ms(plan, rows) / rows

    def capacity_rps(self, plan: Plan) -> float:
        """More than about this a plan can't answer: every batch is full, everyone always busy."""
        run = self.run_ms(plan, plan.max_batch_size) / 1000
        request, row = self.profile.request_us / 1e6, self._share(plan) * run / plan.max_batch_size
        if run < INLINE_SECONDS:
            return plan.workers / (request + row)
        cores = NO_END if plan.device == "cuda" else max(self.profile.cores, cores_of(plan))
        slowest = max(row / plan.replicas, request) / plan.workers
        return 1 / max(slowest, (request + row * plan.threads) / cores)

    def alone_ms(self, plan: Plan) -> float:
        """The p99 of a request that meets no other."""
        long = percentile(np.array(self.profile.lengths or (0,)), 99)
        return self.profile.request_us / 1000 + 1000 * self._costs[plan.threads].seconds(1, int(long))

    def look(self, plan: Plan, requests: int, rate_rps: float | None = None, faster: float = 1) -> Tried:
        """The plan under so many requests at a rate, else at that which it must hold; of a model `faster`
        times as fast."""
        rate = rate_rps or self.rate_rps
        times = self._share(plan) / faster
        profile = replace(self.profile, costs={of: slowed(c, times) for of, c in self.profile.costs.items()})
        if plan.device == "cuda":
            profile = replace(profile, cores=NO_END, crowding={1: 1.0})
        plan = replace(plan, costs=slowed(plan.costs, 1 / faster))
        run = self.simulate(plan, profile, Offer("plan", rate, requests / rate), self.seed)
        return self._told(plan, rate, run)

    def costs_for(self, plan: Plan) -> tuple[Cost, ...]:
        """What the service is told: slower where the plan keeps all cores busy, or shares a GPU."""
        costs = tuple(cost for cost in self.profile.costs[plan.threads] if cost[0] <= plan.max_batch_size)
        if plan.device == "cuda":
            return slowed(costs, self._share(plan))
        is_full = cores_of(plan) >= self.profile.cores
        return slowed(costs, self.profile.crowding[plan.threads] if is_full else 1)

    def _told(self, plan: Plan, rate_rps: float, run: Run) -> Tried:
        samples, demand = run.samples, self.demand
        p99_ms = percentile(samples.latency_ms[samples.ok] if samples.ok.any() else samples.latency_ms, 99)
        error_rate = 1 - float(samples.ok.mean())
        in_time = samples.ok & (samples.latency_ms <= demand.p99_ms)
        return Tried(
            plan.workers,
            plan.threads,
            plan.replicas,
            plan.max_batch_size,
            plan.padded_batch_sizes,
            cores_of(plan),
            rate_rps,
            round(p99_ms, 3),
            error_rate,
            rate_rps * float(in_time.mean()),
            float(run.batch_rows.mean()) if len(run.batch_rows) else 0.0,
            run.busy,
            p99_ms <= MARGIN * demand.p99_ms and error_rate <= MARGIN * demand.max_error_rate,
        )

    def _share(self, plan: Plan) -> float:
        """How many times as long a run takes on a GPU that all sessions share; beyond those that were
        measured in proportion to their number."""
        if plan.device == "cpu":
            return 1.0
        sessions, known = plan.workers * plan.replicas, self.profile.crowding
        nearest = min((n for n in known if n >= sessions), default=max(known))
        return known[nearest] * max(1.0, sessions / nearest)

    @cached_property
    def _costs(self) -> dict[int, Costs]:
        return {threads: Costs(costs) for threads, costs in self.profile.costs.items()}

    @cached_property
    def _shares(self) -> dict[int, float]:
        """How common the buckets of lengths are, by their ends."""
        ends = sorted({length for _, length, _ in next(iter(self.profile.costs.values()))})
        places = np.minimum(np.searchsorted(ends, self.profile.lengths or (0,)), len(ends) - 1)
        return {ends[at]: number / len(places) for at, number in Counter(places.tolist()).items()}


def cores_of(plan: Plan) -> int:
    """What the sessions use; on a GPU, one for each process."""
    return plan.workers * plan.threads * (plan.replicas if plan.device == "cpu" else 1)


def slowed(costs: tuple[Cost, ...], times: float) -> tuple[Cost, ...]:
    return tuple((rows, length, round(ms * times, 6)) for rows, length, ms in costs)
