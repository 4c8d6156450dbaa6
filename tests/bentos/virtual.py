"""Virtual time for the tests of the batcher: a simulator of scheduler and clients, and an event loop whose
clock jumps from timer to timer. Seconds pass in no time, and no test depends on how busy a machine is."""

import asyncio
import functools
import random
import selectors
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bentos.work import Job
from pipelines.core.capacity.worker import Worker


class Simulation(Worker):
    """The pipeline's own simulator, with an event loop that takes no time."""


def job(
    size: int = 1, deadline: float = float("inf"), arrived: float = 0.0, length: int = 0, done=None, **more
):
    return Job(done or (lambda job: None), size, deadline, arrived, length=length, **more)


def closed_loop(
    simulation: Simulation, clients: int, think: Callable[[], float], seconds: float, size: int = 1
) -> float:
    """Clients that send again some time after each answer; returns rows a second."""

    def send() -> None:
        now = simulation.now
        if now < seconds:
            simulation.submit(job(size, now + 10, now, done=again))

    def again(_: Job) -> None:
        simulation.at(simulation.now + think(), send)

    for _ in range(clients):
        simulation.at(think(), send)
    simulation.run(seconds)
    return sum(batch.rows for batch in simulation.batches) / simulation.now


def open_loop(
    simulation: Simulation,
    rows_per_second: Callable[[float], float],
    rng: random.Random,
    seconds: float,
    limit_seconds: float = 10,
    lengths: Sequence[int] = (0,),
) -> list[float]:
    """Poisson arrivals at a rate that may change with time; returns sorted seconds from arrival to answer."""
    now = simulation.now
    while (now := now + rng.expovariate(rows_per_second(now))) < seconds:
        one = job(deadline=now + limit_seconds, arrived=now, length=rng.choice(lengths))
        simulation.at(now, simulation.submit, one)
    simulation.run()
    return sorted(job.finished - job.arrived for job in simulation.answered)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its clock stands still while code runs and jumps to the next timer when nothing else is to be done."""

    def __init__(self) -> None:
        self.now = 0.0
        loop = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout=None):
                if timeout is None:
                    raise RuntimeError("everybody waits and no timer is set")
                loop.now += timeout
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


class VirtualWorker:
    """As bentos.batching.workers.Worker, with a thread whose runs take virtual seconds: what an engine adds
    to the loop's clock passes in that thread alone."""

    def __init__(self, loop: VirtualLoop, overlap: int = 1) -> None:
        self._loop, self._inbox, self._is_busy = loop, [], False

    def give(self, work: Callable, then: Callable) -> None:
        self._inbox.append((work, then))
        self._next()

    def take_back(self) -> bool:
        return bool(self._inbox and self._inbox.pop())

    def close(self) -> None:
        pass

    def _next(self) -> None:
        if self._inbox and not self._is_busy:
            self._is_busy = True
            work, then = self._inbox.pop(0)
            began = self._loop.now
            result = work()
            ends, self._loop.now = self._loop.now, began
            self._loop.call_at(ends, self._end, then, result)

    def _end(self, then: Callable, result) -> None:
        self._is_busy = False
        self._next()
        then(result)


def passing(test: Callable) -> Callable:
    """Run an async test in virtual time."""

    @functools.wraps(test)
    def run(*arguments, **named):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(test(*arguments, **named))

    return run


@dataclass
class Recorder:
    """The batcher's side of bentos.watching.metrics.Metrics: remembers what it was told."""

    batches: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    failures: Counter = field(default_factory=Counter)
    rows: int = 0

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def batch(self, rows: int, requests: int, assemble_seconds: float, model_seconds: float) -> None:
        self.batches.append(rows)

    def queue(self, rows: int) -> None:
        self.rows = rows

    def model_failed(self, reason: str) -> None:
        self.failures[reason] += 1


class Doubling:
    """An engine: y = 2 x. It takes `seconds` of the virtual loop, fails for rows of `poison`, and keeps the
    inputs of each run."""

    def __init__(self, seconds: float = 0.005, poison: Mapping[float, Callable] | None = None) -> None:
        self.seconds, self.poison = seconds, poison or {}
        self.runs: list[np.ndarray] = []

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs.append(feeds["x"])
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualLoop):
            loop.now += self.seconds
        outputs = {"y": feeds["x"] * 2}
        for value in np.unique(feeds["x"]):
            if value in self.poison:
                outputs = self.poison[value](outputs)
        return outputs
