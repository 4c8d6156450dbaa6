"""Load on a plan without a server: a discrete-event simulation of the service, by its own scheduler.

Every worker process has a queue of its own and gets its share of the requests at random, as routers and
kernels deal them out. What is uncertain is drawn: lengths from the profile's rows, run times and what lies
around the service from their quantiles (inverse transform, Devroye, "Non-Uniform Random Variate Generation",
1986).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from random import Random

import numpy as np

from bentos.batching.costs import Costs
from bentos.batching.forecast import Forecast
from bentos.batching.scheduling import Scheduler
from bentos.manifest import Cost, Plan
from bentos.work import Job
from pipelines.core.capacity.profile import Profile
from pipelines.core.capacity.worker import Clock, Cores, Loop, Worker
from pipelines.core.latency import Offer, Samples

PARSE_SHARE = 0.5
"""Of a request's CPU time in the event loop, what comes before it is admitted."""
HAND_OVER_SECONDS = 55e-6
"""To an engine's thread and back, beside an idle event loop."""
CONNECTIONS = 512
"""To a worker, as the load generator has: where the event loop itself is what is short, only that clients
wait for each other keeps it from reading requests all day and answering none."""
OVERLAP = {"cpu": 1, "cuda": 2}
"""How many runs an engine has under way at once."""


@dataclass(frozen=True)
class Run:
    """What came of a simulated stage: samples as of a measured one, rows of each batch, and the share of the
    time that engines ran."""

    samples: Samples
    batch_rows: np.ndarray
    busy: float


def simulate(plan: Plan, profile: Profile, offer: Offer, seed: int, workers: int | None = None) -> Run:
    """One stage of load on `workers` processes, the plan's if None; more than the plan's are more machines,
    each with the plan's number. The same for a seed."""
    return replay(plan, profile, offer.times(seed), seed, workers)


def replay(plan: Plan, profile: Profile, times: np.ndarray, seed: int, workers: int | None = None) -> Run:
    """The same with requests sent at `times`, ascending seconds."""
    rng, count = np.random.default_rng([seed, 1]), len(times)
    fleet, clock = _fleet(plan, profile, workers or plan.workers, Random(seed))
    whose = rng.integers(len(fleet), size=count).tolist()
    lengths = rng.choice(profile.lengths or (0,), count).tolist()
    seconds = plan.max_latency_ms / 1000
    jobs = [Job(_nobody_waits, 1, seconds, 0.0, length=length) for length in lengths]
    for time, at, job in zip(times.tolist(), whose, jobs, strict=True):
        fleet[at].at(time, fleet[at].arrive, job)
    clock.run()
    finished = np.array([job.finished for job in jobs])
    status = np.array([200 if job.refusal is None else job.refusal.status for job in jobs])
    latency = (finished - times) * 1000 + drawn(profile.extra_ms, rng.random(count))
    engine_seconds = len(fleet) * plan.replicas * finished.max()
    return Run(
        Samples(times, times, latency, status),
        np.array([batch.rows for worker in fleet for batch in worker.batches], dtype=int),
        sum(worker.busy_seconds for worker in fleet) / engine_seconds,
    )


def _fleet(plan: Plan, profile: Profile, workers: int, random: Random) -> tuple[list[Worker], Clock]:
    """Machines with the plan's number of workers each, the last perhaps with fewer."""
    clock, table, cost = Clock(), _table(plan, profile), _cost(plan, profile, random)
    each = profile.request_us / 1e6
    loop = Loop(each * PARSE_SHARE, each * (1 - PARSE_SHARE), HAND_OVER_SECONDS, CONNECTIONS)
    machines = [_cores(plan, profile) for _ in range(ceil(workers / plan.workers))]
    fleet = []
    for at in range(workers):
        scheduler = Scheduler(plan, Costs(table, plan.max_batch_size, plan.lengths))
        cores = machines[at // plan.workers]
        fleet.append(Worker(scheduler, cost, plan.replicas, loop, cores, clock, OVERLAP[plan.device] + 1))
    return fleet, clock


def _cores(plan: Plan, profile: Profile) -> Cores:
    if plan.device == "cuda":
        return Cores(dict(sorted(profile.crowding.items())))
    room = max(1.0, profile.cores / plan.threads)
    return Cores({1: 1.0, room: profile.crowding.get(plan.threads, 1.0)}, room, profile.cores)


def _table(plan: Plan, profile: Profile) -> tuple[Cost, ...]:
    """What the schedulers are told: the plan's costs, and of lengths that it lacks those measured."""
    shipped = {length for _, length, _ in plan.costs}
    return (*plan.costs, *(cost for cost in _measured(plan, profile) if cost[1] not in shipped))


def _measured(plan: Plan, profile: Profile) -> tuple[Cost, ...]:
    """The costs of the plan's sessions; a GPU does not ask for their threads."""
    return profile.costs[1 if plan.device == "cuda" else plan.threads]


def _cost(plan: Plan, profile: Profile, random: Random) -> Callable[[int, int], float]:
    """The seconds of one run alone on the machine."""
    truth = Costs(_measured(plan, profile), plan.max_batch_size, plan.lengths)
    typical, spread = Forecast(plan, truth).seconds, profile.spread
    if not spread:
        return typical
    return lambda rows, length: typical(rows, length) * random.choice(spread)


def drawn(quantiles: Sequence[float] | np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Values of a distribution, given by its quantiles at even distances; 0 where there are none."""
    if not len(quantiles):
        return np.zeros(len(uniform))
    return np.interp(uniform, np.linspace(0, 1, len(quantiles)), quantiles)


def _nobody_waits(_: Job) -> None:
    """A job that is done is looked at in the end."""
