"""Waiting times against BentoML's own batcher (CORK), both in virtual time: the same Poisson arrivals, the
same engine that takes 5 ms whatever the batch."""

import asyncio
import random
from types import SimpleNamespace

import numpy as np
import pytest
from bentoml._internal.marshal import dispatcher
from bentoml._internal.utils import alg

from bentos.batching.batcher import Batcher
from bentos.contract import Contract, Field
from bentos.manifest import Plan
from bentos.work import Job
from tests.bentos.virtual import Doubling, Recorder, VirtualWorker, passing

CONTRACT = Contract((Field("x", "float32"),), (Field("y", "float32"),))
RUN_SECONDS, MAX_BATCH_SIZE, LIMIT_MS = 0.005, 32, 10_000
SECONDS = 8.0


def ours(loop):
    costs = ((1, 0, RUN_SECONDS * 1000), (MAX_BATCH_SIZE, 0, RUN_SECONDS * 1000))
    plan = Plan(MAX_BATCH_SIZE, LIMIT_MS, costs=costs)
    batcher = Batcher([Doubling()], CONTRACT, plan, Recorder(), clock=loop.time, worker=VirtualWorker)  # pyright: ignore

    async def ask() -> None:
        back = loop.create_future()
        feeds = {"x": np.ones(1, np.float32)}
        batcher.submit(Job(back.set_result, 1, loop.time() + LIMIT_MS / 1000, loop.time(), feeds=feeds))
        assert (await back).refusal is None

    return ask


def corks(loop):
    async def model(rows):
        await asyncio.sleep(RUN_SECONDS)
        return [row * 2 for row in rows]

    cork = dispatcher.CorkDispatcher(
        LIMIT_MS, MAX_BATCH_SIZE, fallback=lambda: None, get_batch_size=lambda row: 1
    )(model)

    async def ask() -> None:
        await cork(1.0)

    return ask


async def waits(ask, load: float) -> list[float]:
    loop, rng, found, tasks = asyncio.get_running_loop(), random.Random(1), [], []

    async def one() -> None:
        sent = loop.time()
        await ask()
        found.append(loop.time() - sent)

    for many in (*[1] * 12, *[3] * 12, *[32] * 12):  # CORK trains itself on its first requests
        await asyncio.gather(*(ask() for _ in range(many)))
    rate = load * MAX_BATCH_SIZE / RUN_SECONDS
    for _ in range(int(SECONDS * rate)):
        await asyncio.sleep(rng.expovariate(rate))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    return found


@pytest.mark.parametrize("load", [0.05, 0.3, 0.7])
def test_the_p99_of_an_open_loop_is_at_most_that_of_cork(load, monkeypatch):
    p99 = {}
    for contestant in (ours, corks):

        @passing
        async def measured(contestant=contestant):
            loop = asyncio.get_running_loop()
            for module in (dispatcher, alg):
                monkeypatch.setattr(module, "time", SimpleNamespace(time=loop.time))
            return await waits(contestant(loop), load)

        p99[contestant] = np.quantile(measured(), 0.99)
    assert p99[ours] <= p99[corks]
