"""Decisions of the scheduler: single ones step by step, their sum in simulated traffic."""

import random
from math import inf

import pytest

from bentos.batching.costs import Costs
from bentos.batching.scheduling import Batch, Hold, Scheduler
from bentos.errors import Expired, Overloaded
from bentos.manifest import Plan
from tests.bentos.virtual import Simulation, closed_loop, job, open_loop

FIXED = ((1, 0, 5.0), (32, 0, 5.0))
AFFINE = ((1, 0, 1.1), (32, 0, 4.2))
LINEAR = ((1, 0, 0.2), (32, 0, 6.4))
PER_TOKEN = tuple((rows, length, 0.5 + rows * length * 0.004) for rows in (1, 32) for length in (16, 64, 128))


def scheduler(table=FIXED, engines=1, kind=Scheduler, **plan) -> Scheduler:
    plan = Plan(**{"max_batch_size": 32, "max_latency_ms": 10_000, **plan})
    return kind(plan, Costs(table), engines)


def simulation(table=FIXED, engines=1, kind=Scheduler, cost=None, **plan) -> Simulation:
    truth = Costs(table)
    return Simulation(scheduler(table, engines, kind, **plan), cost or truth.seconds, engines)


def formed(one: Scheduler, now: float = 0.0) -> Batch:
    batch = one.next_batch(now)
    assert isinstance(batch, Batch)
    return batch


def rows(batch: Batch) -> list[tuple]:
    return [(part.job.request_id, part.start, part.stop) for part in batch.parts]


# Forming batches.


def test_takes_at_once_what_waits_in_order_of_arrival():
    one = scheduler(max_batch_size=3)
    for at, name in enumerate("abcd"):
        assert one.admit(job(arrived=at, request_id=name), at) is None
    assert rows(formed(one, 4)) == [("a", 0, 1), ("b", 0, 1), ("c", 0, 1)]
    assert rows(formed(one, 4)) == [("d", 0, 1)]
    assert one.next_batch(4) is None


def test_a_large_request_shares_the_engine_with_small_ones():
    one = scheduler(max_batch_size=4)
    one.admit(job(20, arrived=0, request_id="large"), 0)
    assert rows(formed(one, 0)) == [("large", 0, 4)]
    for name in "abc":
        one.admit(job(arrived=0.001, request_id=name), 0.001)
    assert rows(formed(one, 0.005)) == [("a", 0, 1), ("b", 0, 1), ("c", 0, 1), ("large", 4, 5)]
    assert rows(formed(one, 0.01)) == [("large", 5, 9)]


def test_a_large_request_that_is_short_of_time_goes_first():
    one = scheduler(max_batch_size=4)
    one.admit(job(20, arrived=0, deadline=0.0265, request_id="large"), 0)
    one.admit(job(2, arrived=0.001, deadline=10, request_id="a"), 0)
    for at in range(5):
        assert rows(formed(one, at * 0.005)) == [("large", 4 * at, 4 * at + 4)]


def test_a_batch_is_cut_to_meet_the_earliest_deadline_when_the_rest_can_follow():
    one = scheduler(AFFINE)
    one.admit(job(deadline=0.003, arrived=0, request_id="hurry"), 0)
    for at in range(31):
        one.admit(job(deadline=10, arrived=0.001 + at, request_id=str(at)), 0)
    batch = formed(one, 0)
    assert rows(batch)[0] == ("hurry", 0, 1)
    assert batch.seconds * 1.1 <= 0.003
    assert batch.rows + formed(one, 0.003).rows == 32
    assert batch.late == []


def test_with_too_much_work_the_late_go_and_the_batch_stays_full():
    one = scheduler(AFFINE)
    for at in range(96):
        assert one.admit(job(deadline=0.0155, arrived=at / 1e6, request_id=str(at)), 0) is None
    begun = [(formed(one, at), at) for at in (0.0, 0.0042, 0.0114)]  # the second run stalled
    assert [batch.rows for batch, _ in begun[:2]] == [32, 32]
    assert all(now + batch.seconds <= batch.deadline for batch, now in begun)


def test_the_bucket_with_the_earliest_deadline_goes_first():
    one = scheduler(PER_TOKEN, lengths=(16, 64, 128))
    one.admit(job(2, deadline=5, length=10, request_id="short"), 0)
    one.admit(job(2, deadline=4, length=100, request_id="long"), 0)
    assert rows(formed(one)) == [("long", 0, 2)]
    assert rows(formed(one)) == [("short", 0, 2)]


def test_lengths_are_mixed_where_that_is_cheaper():
    flat = [(rows, length, 5.0) for rows in (1, 32) for length in (16, 128)]
    for table, expected in ((flat, [8]), (PER_TOKEN, [4, 4])):
        one = scheduler(table, lengths=(16, 64, 128))
        for at in range(8):
            one.admit(job(deadline=at + 1, length=(10, 120)[at % 2]), 0)
        found = []
        while isinstance(batch := one.next_batch(0), Batch):
            found.append(batch.rows)
        assert found == expected


def test_a_stream_of_short_texts_does_not_starve_a_long_one():
    traffic = simulation(PER_TOKEN, lengths=(16, 64, 128), max_latency_ms=200)
    long = job(deadline=0.2, length=128)
    traffic.at(0.05, lambda: (setattr(long, "arrived", 0.05), setattr(long, "deadline", 0.25)))
    traffic.at(0.05, traffic.submit, long)
    open_loop(traffic, lambda now: 20_000, random.Random(1), 0.5, 0.2, (8, 16))
    assert long.refusal is None
    assert long.finished <= 0.25


def test_padded_batches_cost_what_their_size_costs():
    one = scheduler([(1, 0, 1.0), (8, 0, 2.0), (32, 0, 4.0)], padded_batch_sizes=(1, 8, 32))
    for _ in range(3):
        one.admit(job(), 0)
    assert formed(one).seconds == pytest.approx(0.002)


# Letting in and refusing.


def test_what_would_be_late_is_refused_with_the_time_it_would_take():
    one = scheduler(max_batch_size=1)
    for _ in range(4):
        assert one.admit(job(deadline=1.0), 0) is None
    refusal = one.admit(job(deadline=0.02), 0)
    assert isinstance(refusal, Overloaded)
    assert str(refusal) == "would take about 27 ms, allowed are 20 ms"


def test_what_runs_counts_and_an_overdue_run_counts_double():
    one = scheduler(max_batch_size=1)
    one.admit(job(deadline=9), 0)
    one.began(formed(one), 0)
    assert one.admit(job(deadline=0.009), 0.004) is not None
    assert one.admit(job(deadline=0.011), 0.004) is None
    assert one.admit(job(deadline=0.1), 0.06) is not None


def test_a_deadline_that_passed_is_told_as_such():
    assert isinstance(scheduler().admit(job(deadline=1.0), 1.0), Expired)


def test_more_rows_than_may_wait_are_refused():
    one = scheduler(max_queue_rows=5)
    assert one.admit(job(4), 0) is None
    assert isinstance(one.admit(job(2), 0), Overloaded)
    assert one.admit(job(1), 0) is None


def test_by_itself_the_queue_is_as_long_as_can_be_answered_in_time():
    one = scheduler(max_latency_ms=50)
    admitted = 0
    while one.admit(job(), 0) is None:
        admitted += 1
    assert admitted == 320


def test_who_cannot_be_in_time_even_alone_expires_and_never_runs():
    one = scheduler(max_batch_size=1)
    for at in range(3):
        one.admit(job(deadline=0.03 + at, request_id=str(at)), 0)
    batch = formed(one)
    one.began(batch, 0)
    assert one.expire(0.9) == []
    late = one.expire(1.026)
    assert [job.request_id for job in late] == ["1"]
    assert one.rows == 1
    assert rows(formed(one, 1.03)) == [("2", 0, 1)]


def test_who_left_takes_no_room():
    one = scheduler()
    left = job(5)
    one.admit(left, 0)
    one.admit(job(request_id="a"), 0)
    assert one.remove(left)
    assert not one.remove(left)
    assert one.rows == 1
    assert rows(formed(one)) == [("a", 0, 1)]


def test_predictions_that_are_far_too_long_do_not_shut_the_door_for_ever():
    one = scheduler([(1, 0, 60_000.0)])
    for at in range(30):
        now = 2.0 * at
        assert one.admit(job(deadline=now + 1), now) is None
        assert one.expire(now) == []
        batch = formed(one, now)
        one.began(batch, now)
        one.finished(batch, now + 0.01, 0.01)
    assert one.admit(job(deadline=now + 1.5), now + 0.02) is None


# Waiting for rows that come back.


class Never(Scheduler):
    """A free engine always takes what is there."""

    def _hold(self, now):
        return None


def waits_for(rows: int):
    class Until(Scheduler):
        """Waits for so many rows, however long that takes."""

        def _hold(self, now):
            return Hold(now + 1) if self.rows < rows else None

    return Until


def think(rng: random.Random):
    return lambda: rng.uniform(0.0002, 0.0006)


@pytest.mark.parametrize("clients", [8, 32, 48, 64])
@pytest.mark.parametrize("table", [FIXED, AFFINE], ids=["fixed cost", "affine cost"])
def test_in_a_closed_loop_it_is_as_fast_as_the_best_rule_in_hindsight(table, clients):
    def rate(kind):
        return closed_loop(simulation(table, kind=kind), clients, think(random.Random(1)), 4.0)

    best = max(rate(waits_for(rows)) for rows in (1, 4, 8, 16, 24, 28, 31, 32) if rows <= clients)
    assert rate(Scheduler) >= 0.97 * best


def test_in_a_closed_loop_taking_at_once_would_halve_the_throughput():
    ours, never = (
        closed_loop(simulation(kind=kind), 32, think(random.Random(1)), 4.0) for kind in (Scheduler, Never)
    )
    assert ours > 1.7 * never


def counting():
    class Counting(Scheduler):
        holds = 0

        def _hold(self, now):
            found = super()._hold(now)
            self.holds += found is not None
            return found

    return Counting


def test_it_notices_within_a_fifth_of_a_second_that_clients_no_longer_come_back():
    traffic = simulation(kind=counting())
    rng = random.Random(1)
    closed_loop(traffic, 32, think(rng), 1.0)
    assert traffic.scheduler.holds > 1000
    open_loop(traffic, lambda now: 3000, rng, 1.2)
    before = traffic.scheduler.holds
    open_loop(traffic, lambda now: 3000, rng, 3.0)
    assert traffic.scheduler.holds == before


@pytest.mark.parametrize("engines", [1, 2, 4])
@pytest.mark.parametrize("burst_seconds", [inf, 0.02, 0.1], ids=["steady", "short bursts", "long bursts"])
@pytest.mark.parametrize("load", [0.05, 0.3, 0.7])
def test_in_an_open_loop_it_does_not_wait(load, burst_seconds, engines):
    traffic = simulation(engines=engines, kind=counting())
    mean = load * engines * 32 / 0.005

    def rate(now):
        return mean if burst_seconds == inf else mean * (1.98 if now // burst_seconds % 2 == 0 else 0.02)

    open_loop(traffic, rate, random.Random(2), 3.0)
    assert traffic.scheduler.holds == 0


def test_with_a_cost_in_proportion_to_rows_it_never_waits():
    traffic = simulation(LINEAR, kind=counting())
    closed_loop(traffic, 32, think(random.Random(1)), 4.0)
    assert traffic.scheduler.holds == 0


def test_it_never_waits_past_a_deadline():
    traffic = simulation()
    closed_loop(traffic, 32, think(random.Random(1)), 1.0)
    one = traffic.scheduler
    (running,) = one._running
    now = running.ends
    one.finished(running, now, 0.005)
    one.admit(job(deadline=now + 10, arrived=now), now)
    assert isinstance(one.next_batch(now), Hold)
    one.admit(job(deadline=now + 0.0058, arrived=now), now)
    assert isinstance(one.next_batch(now), Batch)


# Overload.


def noisy(table, rng: random.Random):
    """A fifth up or down, and one run in 500 takes ten times as long."""
    truth = Costs(table)

    def cost(rows, length):
        stall = 10 if rng.random() < 0.002 else 1
        return truth.seconds(rows, length) * rng.lognormvariate(0, 0.2) * stall

    return cost


@pytest.mark.parametrize(("times", "share"), [(2, 0.88), (5, 0.85)])
@pytest.mark.parametrize("table", [FIXED, AFFINE], ids=["fixed cost", "affine cost"])
def test_overload_leaves_goodput_near_capacity(table, times, share):
    """The noise alone takes 4 % of the capacity."""
    rng = random.Random(3)
    traffic = simulation(table, cost=noisy(table, rng), max_latency_ms=100)
    capacity = 32 / Costs(table).seconds(32)
    open_loop(traffic, lambda now: times * capacity, rng, 5.0, 0.1)
    good = sum(job.finished <= job.deadline for job in traffic.answered)
    assert good / 5.0 >= share * capacity
    shed_late = sum(job.finished - job.arrived > 0.001 for job in traffic.refused)
    assert shed_late < 0.2 * len(traffic.refused)


def test_with_texts_of_mixed_lengths_overload_leaves_goodput_near_capacity():
    rng = random.Random(3)
    traffic = simulation(PER_TOKEN, cost=noisy(PER_TOKEN, rng), max_latency_ms=100, lengths=(16, 64, 128))
    capacity = 32 / Costs(PER_TOKEN).seconds(32, 69)
    open_loop(traffic, lambda now: 2 * capacity, rng, 5.0, 0.1, (16, 64, 128))
    assert sum(job.finished <= job.deadline for job in traffic.answered) / 5.0 >= 0.88 * capacity
