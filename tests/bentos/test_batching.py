"""The batcher: it shares runs, never mixes answers, and survives whatever engines, clients and clocks do."""

import asyncio
import random
import threading
import time

import numpy as np
import pytest

from bentos.batching.batcher import Batcher
from bentos.batching.costs import Costs
from bentos.contract import Contract, Field
from bentos.engines.engine import ModelOutputInvalid
from bentos.errors import Expired, Left, ModelFailed, Overloaded, Unavailable
from bentos.manifest import Plan
from bentos.work import Job
from tests.bentos.virtual import Doubling, Recorder, VirtualWorker, passing

CONTRACT = Contract((Field("x", "float32"),), (Field("y", "float32"),))
FIXED = ((1, 0, 5.0), (32, 0, 5.0))


class Desk:
    """A batcher with one engine and what came of its jobs. On a virtual loop its thread is virtual too."""

    def __init__(self, engine=None, contract=CONTRACT, worker=VirtualWorker, **plan):
        loop = asyncio.get_running_loop()
        self.engine = engine or Doubling()
        self.metrics = Recorder()
        self.plan = Plan(**{"max_batch_size": 32, "costs": FIXED, **plan})
        self.batcher = Batcher(
            [self.engine], contract, self.plan, self.metrics, clock=loop.time, worker=worker
        )  # pyright: ignore
        self.done: list[Job] = []
        self.worked: list[bool] = []
        self.batcher.on_run = self.worked.append

    def ask(self, *values: float, deadline: float = 1000.0, done=None, **given) -> Job:
        now = asyncio.get_running_loop().time()
        given = given or {"feeds": {"x": np.array(values, np.float32)}}
        size = len(next(iter((given.get("feeds") or given).values())))
        length = given.pop("length", 0)
        job = Job(done or self.done.append, size, now + deadline, now, length=length, **given)
        self.batcher.submit(job)
        return job


def answer(job: Job) -> list:
    assert job.refusal is None, job.refusal
    assert job.outputs is not None
    return job.outputs["y"].tolist()


@passing
async def test_requests_of_one_turn_share_a_run_and_get_their_own_rows():
    desk = Desk()
    jobs = [desk.ask(1), desk.ask(2, 3), desk.ask(4)]
    await desk.batcher.drain()
    assert [answer(job) for job in jobs] == [[2], [4, 6], [8]]
    assert desk.metrics.batches == [4]


@passing
async def test_a_free_engine_takes_what_is_there_and_a_busy_one_lets_others_join():
    desk = Desk()
    desk.ask(1)
    await asyncio.sleep(0.001)
    desk.ask(2)
    await asyncio.sleep(0.002)
    desk.ask(3)
    await desk.batcher.drain()
    assert desk.metrics.batches == [1, 2]


@passing
async def test_answers_are_views_not_copies():
    desk = Desk()
    jobs = [desk.ask(1), desk.ask(2)]
    await desk.batcher.drain()
    assert jobs[0].outputs["y"].base is jobs[1].outputs["y"].base is not None


@passing
async def test_json_and_tensors_share_a_run():
    desk = Desk()
    jobs = [desk.ask(1), desk.ask(rows=[{"x": 2.0}, {"x": 3.0}]), desk.ask(4)]
    await desk.batcher.drain()
    assert [answer(job) for job in jobs] == [[2], [4, 6], [8]]
    assert desk.metrics.batches == [4]


@passing
async def test_a_large_request_runs_in_chunks_and_small_ones_go_between():
    desk = Desk(max_batch_size=4)
    order = []
    large = desk.ask(*range(14), done=lambda job: order.append("large"))
    small = desk.ask(100, done=lambda job: order.append("small"))
    await desk.batcher.drain()
    assert answer(large) == [2 * value for value in range(14)]
    assert answer(small) == [200]
    assert order == ["small", "large"]
    assert desk.metrics.batches == [4, 4, 4, 3]


@passing
async def test_a_full_batch_lies_ready_while_another_runs():
    desk = Desk(max_batch_size=2)
    for value in range(6):
        desk.ask(value)
    await asyncio.sleep(0.001)
    assert desk.batcher.queued_rows == 2
    await desk.batcher.drain()
    assert desk.metrics.batches == [2, 2, 2]
    assert asyncio.get_running_loop().time() == pytest.approx(0.015, abs=1e-6)


@passing
async def test_a_short_run_needs_no_thread():
    class Forbidden(VirtualWorker):
        def give(self, work, then):
            raise AssertionError("a thread was used")

    desk = Desk(engine=Doubling(seconds=0.0001), worker=Forbidden, costs=((1, 0, 0.1), (32, 0, 0.1)))
    job = desk.ask(1)
    await desk.batcher.drain()
    assert answer(job) == [2]


def raises(outputs):
    raise RuntimeError("no such row")


def panics(outputs):
    raise SystemExit(3)


def loses(outputs):
    return {"y": outputs["y"][1:]}


def not_finite(outputs):
    raise ModelOutputInvalid("y", "is not finite")


@pytest.mark.parametrize("place", [0, 13, 31])
@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        pytest.param(raises, "raised", id="raises"),
        pytest.param(loses, "wrong_rows", id="loses a row"),
        pytest.param(not_finite, "not_finite", id="answers NaN"),
    ],
)
@passing
async def test_one_bad_row_in_32_fails_alone(failure, reason, place):
    desk = Desk(Doubling(poison={-7.0: failure}))
    jobs = [desk.ask(-7 if at == place else at) for at in range(32)]
    await desk.batcher.drain()
    bad = jobs.pop(place)
    assert isinstance(bad.refusal, ModelFailed)
    assert bad.refusal.__cause__ is not None
    assert bad.outputs is None
    assert [answer(job) for job in jobs] == [[2 * at] for at in range(32) if at != place]
    assert len(desk.engine.runs) == 1 + 2 * 5
    assert desk.metrics.failures == {reason: 1}
    assert desk.worked == [True]


@passing
async def test_an_innocent_gets_the_answer_of_a_batch_without_the_bad_row():
    class Centering(Doubling):
        """Answers depend on the whole batch, as those of dynamically quantized models do."""

        def run(self, feeds):
            outputs = super().run(feeds)
            return {"y": outputs["y"] - feeds["x"].mean()}

    desk = Desk(Centering(poison={-1e9: raises}))
    jobs = [desk.ask(value) for value in (1, 3, -1e9, 5)]
    await desk.batcher.drain()
    assert [answer(jobs[at]) for at in (0, 1, 3)] == [[0], [4], [5]]


@passing
async def test_what_is_no_exception_fails_alone_too():
    desk = Desk(Doubling(poison={-7.0: panics}))
    bad, good = desk.ask(-7), desk.ask(1)
    await desk.batcher.drain()
    assert isinstance(bad.refusal, ModelFailed)
    assert answer(good) == [2]


@passing
async def test_tensors_that_do_not_fit_the_others_fail_alone():
    desk = Desk()
    good, bad = desk.ask(1), desk.ask(feeds={"x": np.ones((1, 3), np.float32)})
    other = desk.ask(rows=[{"x": "no number"}])
    await desk.batcher.drain()
    assert answer(good) == [2]
    assert bad.refusal is None or isinstance(bad.refusal, ModelFailed)
    assert isinstance(other.refusal, ModelFailed)


@passing
async def test_a_chunk_that_fails_fails_its_request_once():
    desk = Desk(Doubling(poison={9.0: raises}), max_batch_size=4)
    large, small = desk.ask(*range(14)), desk.ask(100)
    await desk.batcher.drain()
    assert isinstance(large.refusal, ModelFailed)
    assert large.outputs is None
    assert answer(small) == [200]
    assert desk.done.count(large) == 1


@passing
async def test_who_left_is_dropped_before_the_model_sees_it():
    desk = Desk()
    running = desk.ask(1)
    await asyncio.sleep(0.001)
    waiting, stays = desk.ask(2), desk.ask(3)
    desk.batcher.cancel(waiting)
    desk.batcher.cancel(running)
    assert [job.refusal.status for job in (waiting, running)] == [499, 499]
    await desk.batcher.drain()
    assert answer(stays) == [6]
    assert [run.tolist() for run in desk.engine.runs] == [[1], [3]]
    assert len(desk.done) == 3


@passing
async def test_who_left_before_it_was_submitted_is_told_so_once():
    desk = Desk()
    job = Job(desk.done.append, 1, 10.0, 0.0, feeds={"x": np.ones(1, np.float32)})
    desk.batcher.cancel(job)
    desk.batcher.submit(job)
    assert [type(job.refusal) for job in desk.done] == [Left]


@passing
async def test_what_cannot_be_in_time_is_refused_at_once():
    desk = Desk(max_batch_size=1)
    for _ in range(3):
        desk.ask(1)
    hopeless = desk.ask(2, deadline=0.006)
    assert isinstance(hopeless.refusal, Overloaded)
    assert hopeless.refusal.retry_after_seconds == 1
    assert asyncio.get_running_loop().time() == 0
    await desk.batcher.drain()
    assert len(desk.engine.runs) == 3


@passing
async def test_who_waits_behind_a_stall_is_told_at_the_deadline_and_never_run():
    desk = Desk(max_batch_size=2)
    desk.engine.seconds = 10.0
    desk.ask(1)
    await asyncio.sleep(0.001)
    ready = [desk.ask(2, deadline=0.05), desk.ask(3, deadline=0.2)]
    waiting = desk.ask(4, deadline=0.1)
    await asyncio.sleep(0.15)
    assert [type(job.refusal) for job in (*ready, waiting)] == [Expired, type(None), Expired]
    await desk.batcher.drain()
    assert isinstance(ready[1].refusal, Expired)
    assert [run.tolist() for run in desk.engine.runs] == [[1]]


@passing
async def test_a_callback_that_raises_hurts_nobody_else():
    desk = Desk()
    desk.batcher.on_run = raises
    desk.metrics.waited = raises

    def done(job):
        desk.done.append(job)
        raise ValueError("a client's bug")

    jobs = [desk.ask(value, done=done) for value in range(3)]
    await desk.batcher.drain()
    again = desk.ask(5)
    await desk.batcher.drain()
    assert [answer(job) for job in (*jobs, again)] == [[0], [2], [4], [10]]


@passing
async def test_a_step_of_the_wall_clock_changes_nothing(monkeypatch):
    desk = Desk()
    first = desk.ask(1, deadline=0.1)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    second = desk.ask(2, deadline=0.1)
    await asyncio.sleep(0.001)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    third = desk.ask(3, deadline=0.1)
    await desk.batcher.drain()
    assert [answer(job) for job in (first, second, third)] == [[2], [4], [6]]
    assert desk.metrics.batches == [2, 1]
    assert desk.metrics.waits == pytest.approx([0, 0, 0.004])


TOKENS = Contract(
    (Field("ids", "int64", (-1, -1), axes=("tokens",)), Field("kind", "int64")),
    (
        Field("total", "int64"),
        Field("hidden", "float32", (-1, -1, 2), axes=("tokens", "")),
        Field("unnamed", "int64", (-1, -1)),
    ),
)


class Encoder:
    def __init__(self):
        self.shapes = []

    def run(self, feeds):
        ids = feeds["ids"]
        self.shapes.append(ids.shape)
        hidden = np.stack([ids, ids + 1], axis=2).astype(np.float32)
        return {"total": ids.sum(axis=1), "hidden": hidden, "unnamed": ids * 10}


@passing
async def test_texts_of_any_length_share_a_run_and_get_back_their_own_length():
    desk = Desk(Encoder(), TOKENS)
    tensors = {"ids": np.array([[1, 2, 3], [4, 5, 0]]), "kind": np.array([0, 0])}
    jobs = [
        desk.ask(rows=[{"ids": [7], "kind": 0}], length=1),
        desk.ask(feeds=tensors, length=3),
        desk.ask(rows=[{"ids": [1, 1, 1, 1], "kind": 0}, {"ids": [2, 2], "kind": 1}], length=4),
    ]
    await desk.batcher.drain()
    assert desk.engine.shapes == [(5, 4)]
    assert [job.outputs["total"].tolist() for job in jobs] == [[7], [6, 9], [4, 4]]
    assert [job.outputs["hidden"].shape for job in jobs] == [(1, 1, 2), (2, 3, 2), (2, 4, 2)]
    assert [job.outputs["unnamed"].tolist() for job in jobs] == [
        [[70]],
        [[10, 20, 30], [40, 50, 0]],
        [[10, 10, 10, 10], [20, 20, 0, 0]],
    ]


@passing
async def test_the_chunks_of_a_request_of_many_lengths_are_put_together():
    desk = Desk(Encoder(), TOKENS, max_batch_size=2)
    rows = [{"ids": [1] * length, "kind": 0} for length in (1, 1, 3, 2, 4)]
    job = desk.ask(rows=rows, length=4)
    await desk.batcher.drain()
    assert job.outputs["total"].tolist() == [1, 1, 3, 2, 4]
    assert job.outputs["hidden"].shape == (5, 4, 2)
    assert job.outputs["unnamed"][2].tolist() == [10, 10, 10, 0]


@passing
async def test_after_closing_everything_is_refused():
    desk = Desk()
    waiting = desk.ask(1)
    desk.batcher.close()
    later = desk.ask(2)
    assert [type(job.refusal) for job in (waiting, later)] == [Unavailable, Unavailable]


@passing
async def test_costs_are_learned_while_serving():
    costs = Costs()
    batcher = Batcher(
        [Doubling(0.02)], CONTRACT, Plan(), Recorder(), costs, asyncio.get_running_loop().time, VirtualWorker
    )  # pyright: ignore
    batcher.submit(Job(lambda job: None, 1, 10.0, 0.0, feeds={"x": np.ones(1, np.float32)}))
    await batcher.drain()
    assert costs.seconds(1) == pytest.approx(0.02)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("seconds", [0.005, 0.0001])
@passing
async def test_whatever_happens_each_job_is_told_once_and_right(seconds, seed):
    """Random sizes, deadlines, failures, panics, stalls, and clients that leave."""
    rng = random.Random(seed)
    engine = Doubling(seconds, {-1.0: raises, -2.0: loses, -3.0: not_finite, -4.0: panics})
    desk = Desk(engine, max_batch_size=8, costs=((1, 0, seconds * 1000), (8, 0, seconds * 1000)))
    jobs, poisoned = [], set()
    for _ in range(300):
        values = [float(rng.randrange(100)) for _ in range(rng.choice((1, 1, 1, 2, 7, 8, 9, 30)))]
        is_bad = rng.random() < 0.05
        if is_bad:
            values[rng.randrange(len(values))] = -float(rng.randint(1, 4))
        jobs.append((desk.ask(*values, deadline=rng.choice((0.02, 0.2, 50))), values))
        if is_bad:
            poisoned.add(jobs[-1][0])
        if rng.random() < 0.1:
            desk.batcher.cancel(rng.choice(jobs)[0])
        engine.seconds = seconds * (rng.choice((10, 100)) if rng.random() < 0.02 else 1)
        if rng.random() < 0.5:
            await asyncio.sleep(rng.random() * seconds * 2)
    await desk.batcher.drain()
    assert len(desk.done) == len(jobs) == len({*desk.done})
    for job, values in jobs:
        assert not isinstance(job.refusal, ModelFailed) or job in poisoned
        if job.refusal is None:
            assert job not in poisoned
            assert answer(job) == [2 * value for value in values]
        else:
            assert job.outputs is None
    assert desk.batcher.queued_rows == 0


def test_with_real_threads_several_engines_run_at_once():
    meet = threading.Barrier(2, timeout=10)

    class Meeting(Doubling):
        def run(self, feeds):
            meet.wait()
            return {"y": feeds["x"] * 2}

    async def asked():
        plan = Plan(max_batch_size=2, replicas=2, costs=FIXED)
        batcher = Batcher([Meeting(), Meeting()], CONTRACT, plan, Recorder())  # pyright: ignore
        jobs = []
        for value in range(4):
            now = time.monotonic()
            job = Job(jobs.append, 1, now + 60, now, feeds={"x": np.array([value], np.float32)})
            batcher.submit(job)
        await batcher.drain()
        batcher.close()
        return sorted(answer(job) for job in jobs)

    assert asyncio.run(asked()) == [[0], [2], [4], [6]]
    assert not [thread for thread in threading.enumerate() if thread.name == "engine"]


def test_with_a_real_thread_runs_of_one_engine_overlap():
    meet = threading.Barrier(2, timeout=10)

    class Overlapping:
        overlap = 2

        def run(self, feeds):
            meet.wait()
            return {"y": feeds["x"] * 2}

    async def asked():
        batcher = Batcher([Overlapping()], CONTRACT, Plan(max_batch_size=2, costs=FIXED), Recorder())  # pyright: ignore
        jobs = []
        for value in range(8):
            now = time.monotonic()
            batcher.submit(Job(jobs.append, 1, now + 60, now, feeds={"x": np.array([value], np.float32)}))
        await batcher.drain()
        batcher.close()
        return sorted(answer(job) for job in jobs)

    assert asyncio.run(asked()) == [[2 * value] for value in range(8)]
