"""The batcher alone, against BentoML's own (CORK) in the same process: the same engine, which takes a fixed
time whatever the batch, and the same arrivals, in turns.

    python -m tests.benchmarks.serving.batcher

Throughput is a share of the ideal: full batches one after the other, as the engine alone reaches them.
Waiting times count from when a request was due, not from when the event loop got round to sending it.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from selectors import SelectSelector
from statistics import median
from typing import Any, TypeVar

import numpy as np
from bentoml._internal.marshal.dispatcher import CorkDispatcher

from bentos.batching.batcher import Batcher
from bentos.batching.costs import Costs
from bentos.contract import Contract, Field
from bentos.manifest import Plan
from bentos.watching.metrics import Metrics
from bentos.work import Job

CONTRACT = Contract((Field("x", "float32"),), (Field("y", "float32"),))
RUN_SECONDS = 0.005
MAX_BATCH_SIZE = 32
LIMIT_MS = 10_000
ONE_ROW = np.ones(1, np.float32)
CLIENTS = 4 * MAX_BATCH_SIZE
THINK_SECONDS = (0.0002, 0.0006)
SETTLE_SECONDS = 0.5
"""Both learn from the traffic: ours from a closed loop to wait, CORK from an open one how long to."""
Ask = Callable[[], Awaitable]
T = TypeVar("T")


class FixedCost:
    """Takes as long for one row as for many, and lets other threads run meanwhile, as ONNX Runtime does."""

    def run(self, feeds):
        time.sleep(RUN_SECONDS)
        return {"y": feeds["x"] * 2}


class Ours:
    def __init__(self) -> None:
        costs = Costs([(rows, 0, RUN_SECONDS * 1000) for rows in (1, MAX_BATCH_SIZE)])
        plan = Plan(max_batch_size=MAX_BATCH_SIZE, max_latency_ms=LIMIT_MS)
        self._batcher = Batcher([FixedCost()], CONTRACT, plan, Metrics(), costs)

    async def ask(self) -> None:
        """With a Future, which the service does without, so that both are called alike."""
        back = asyncio.get_running_loop().create_future()
        now = time.monotonic()
        feeds = {"x": ONE_ROW}
        self._batcher.submit(
            Job(lambda job: back.set_result(job.outputs), 1, now + LIMIT_MS / 1000, now, None, feeds)
        )
        await back

    def close(self) -> None:
        self._batcher.close()


class Cork:
    def __init__(self) -> None:
        self._dispatcher = CorkDispatcher(
            max_latency_in_ms=LIMIT_MS,
            max_batch_size=MAX_BATCH_SIZE,
            fallback=lambda: None,
            get_batch_size=lambda row: 1,
        )
        engine = FixedCost()
        self._ask = self._dispatcher(lambda rows: [*engine.run({"x": np.concatenate(rows)})["y"]])

    async def ask(self) -> None:
        await self._ask(ONE_ROW)

    def close(self) -> None:
        self._dispatcher.shutdown()


def ideal_rows_per_second(seconds: float) -> float:
    """Of the engine alone: what it really takes is longer than it was told to sleep."""
    engine, runs, ends = FixedCost(), 0, time.perf_counter() + seconds
    started = time.perf_counter()
    while time.perf_counter() < ends:
        engine.run({"x": ONE_ROW})
        runs += 1
    return runs * MAX_BATCH_SIZE / (time.perf_counter() - started)


async def saturated(
    ask: Ask, seconds: float, clients: int, think: tuple[float, float] | None = None
) -> float:
    """Rows a second with clients that ask again when answered, at once or after some time to think."""
    answered, rng, stop = 0, random.Random(1), False

    async def client() -> None:
        nonlocal answered
        while not stop:
            await ask()
            answered += 1
            if think:
                await asyncio.sleep(rng.uniform(*think))

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    await asyncio.sleep(0.5)
    before, started = answered, time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (answered - before) / (time.perf_counter() - started)
    stop = True
    await asyncio.gather(*tasks)
    return rate


async def p99_ms(ask: Ask, rows_per_second: float, seconds: float, seed: int) -> float:
    """Of an open loop: Poisson arrivals, whatever the answers do."""
    rng, waits, tasks = random.Random(seed), [], set()
    loop = asyncio.get_running_loop()

    async def one(due: float) -> None:
        await ask()
        waits.append(loop.time() - due)

    due = loop.time()
    ends = due + seconds
    while (due := due + rng.expovariate(rows_per_second)) < ends:
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        task = asyncio.ensure_future(one(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return float(np.quantile(waits, 0.99) * 1000)


def in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """On an event loop whose timers are good for microseconds; that of epoll rounds up to milliseconds."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(SelectSelector())) as runner:
        return runner.run(work)


async def warmed(contestant: Ours | Cork) -> Ours | Cork:
    """CORK trains itself on its first requests."""
    for many in (*[1] * 12, *[3] * 12, *[32] * 12):
        await asyncio.gather(*(contestant.ask() for _ in range(many)))
    return contestant


async def measured(
    kind: type[Ours] | type[Cork], ideal: float, seconds: float, seed: int
) -> dict[str, float]:
    contestant = await warmed(kind())
    found = {
        "share_of_ideal": await saturated(contestant.ask, seconds, CLIENTS) / ideal,
        "share_of_ideal_32_clients": await saturated(contestant.ask, seconds, 32, THINK_SECONDS) / ideal,
    }
    for load in (0.05, 0.3, 0.7):
        await p99_ms(contestant.ask, load * ideal, SETTLE_SECONDS, seed + 1)
        found[f"p99_ms_at_{load:.0%}"] = await p99_ms(contestant.ask, load * ideal, seconds, seed)
    contestant.close()
    return found


def compare(rounds: int = 9, seconds: float = 1.0) -> dict[str, dict]:
    """Each contestant's medians, and the median of ours / CORK's with its range. Many short rounds: a p99 of
    5 ms does not survive a neighbour who takes the core for ten, the median of many does."""
    figures: dict[str, list[dict[str, float]]] = {"ours": [], "cork": []}
    for at in range(rounds):
        ideal = ideal_rows_per_second(0.5)
        for name, kind in (("ours", Ours), ("cork", Cork)):
            figures[name].append(in_a_loop(measured(kind, ideal, seconds, at)))
    told: dict[str, dict] = {
        name: {key: round(median(one[key] for one in found), 4) for key in found[0]}
        for name, found in figures.items()
    }
    told["ours_to_cork"] = {}
    for key in told["ours"]:
        ratios = [one[key] / other[key] for one, other in zip(figures["ours"], figures["cork"], strict=True)]
        told["ours_to_cork"][key] = {
            name: round(of(ratios), 4) for name, of in (("median", median), ("low", min), ("high", max))
        }
    return told


if __name__ == "__main__":
    print(json.dumps(compare(), indent=2))
