"""The circuit breaker opens, tries and closes by a clock of ours; a fallback that could not answer is refused
at the start."""

import numpy as np
import pytest

from bentos.contract import Contract, Field
from bentos.guarding.breaker import Breaker, Fallback, FallbackInvalid
from bentos.guarding.cache import Cache
from bentos.manifest import Plan
from bentos.watching.metrics import Metrics
from bentos.work import Job
from tests.bentos.tiny import CONTRACT, ROW


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def job(rows: int = 1) -> Job:
    return Job(done=lambda job: None, size=rows, deadline=0, arrived=0, rows=[ROW] * rows)


def failed(breaker: Breaker, times: int) -> Breaker:
    for _ in range(times):
        breaker.ran(False)
    return breaker


def test_opens_after_failures_in_a_row(clock):
    heard = []
    breaker = failed(Breaker(3, 5, clock, heard.append), 2)
    assert breaker.allows() and heard == []
    breaker.ran(False)
    assert not breaker.allows() and heard == [True]


def test_one_poisonous_client_does_not_open_it(clock):
    breaker = Breaker(3, 5, clock)
    for _ in range(100):
        failed(breaker, 2).ran(True)
    assert breaker.allows() and not breaker.is_open


def test_one_request_tries_and_its_success_closes(clock):
    heard = []
    breaker = failed(Breaker(3, 5, clock, heard.append), 3)
    clock.now += 5
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.ran(True)
    assert breaker.allows() and heard == [True, False]
    assert not failed(breaker, 2).is_open


def test_a_try_that_fails_opens_it_for_as_long_again(clock):
    breaker = failed(Breaker(3, 5, clock), 3)
    clock.now += 5
    assert breaker.allows()
    clock.now += 1
    breaker.ran(False)
    clock.now += 4.5
    assert not breaker.allows()
    clock.now += 0.5
    assert breaker.allows()


def test_a_try_whose_client_left_does_not_keep_it_open_for_ever(clock):
    breaker = failed(Breaker(1, 5, clock), 1)
    clock.now += 5
    assert breaker.allows()
    clock.now += 4
    assert not breaker.allows()
    clock.now += 1
    assert breaker.allows()


def test_no_fallback_answers_nothing():
    assert Fallback(Plan(), CONTRACT, None).answer(job()) is None


def test_the_default_is_answered_for_every_row():
    contract = Contract((), (Field("p", "float32"), Field("codes", "int64", (-1, 2))))
    plan = Plan(fallback="default", default_answer={"p": 0.5, "codes": [1, 2]})
    answer = Fallback(plan, contract, None).answer(job(2))
    assert answer and {name: value.tolist() for name, value in answer.items()} == {
        "p": [0.5, 0.5],
        "codes": [[1, 2], [1, 2]],
    }
    assert answer["p"].dtype == "float32" and answer["codes"].flags.c_contiguous


def test_an_earlier_answer_is_repeated_however_old(clock):
    cache = Cache("v3", 10, 100, Metrics(), clock=clock)
    fallback = Fallback(Plan(fallback="cached", cache_seconds=10), CONTRACT, cache)
    assert fallback.answer(job()) is None
    cache.put(cache.key(job()), {"probability": np.float32([0.25])})
    clock.now += 1000
    answer = fallback.answer(job())
    assert answer and answer["probability"].tolist() == [0.25]


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        pytest.param({"fallback": "guess"}, "one of none, cached, default", id="unknown"),
        pytest.param({"fallback": "cached"}, "cache_seconds", id="no cache"),
        pytest.param({"fallback": "default"}, r"has \[\]", id="no answer"),
        pytest.param({"default_answer": {"p": 1}}, "outputs are", id="an output is missing"),
        pytest.param({"default_answer": {"p": 1, "k": [1, 2], "x": 0}}, "outputs are", id="one too many"),
        pytest.param({"default_answer": {"p": [1.0], "k": [1, 2]}}, "p has shape", id="a wrong rank"),
        pytest.param({"default_answer": {"p": 1, "k": [1, 2, 3]}}, "k has shape", id="a wrong size"),
        pytest.param({"default_answer": {"p": 1, "k": [1, [2]]}}, "k is not int64", id="ragged"),
        pytest.param({"default_answer": {"p": "high", "k": [1, 2]}}, "p is not float32", id="a string"),
        pytest.param({"default_answer": {"p": "1", "k": [1, 2]}}, "p is not float32", id="a number as text"),
        pytest.param({"default_answer": {"p": None, "k": [1, 2]}}, "p is not float32", id="null"),
        pytest.param({"default_answer": {"p": 1, "k": [1.5, 2]}}, "k is not int64", id="a fraction"),
        pytest.param({"default_answer": {"p": 1e39, "k": [1, 2]}}, "p is infinite", id="beyond its dtype"),
    ],
)
def test_a_fallback_that_could_not_answer_is_refused(plan, reason):
    contract = Contract((), (Field("p", "float32"), Field("k", "int64", (-1, 2))))
    with pytest.raises(FallbackInvalid, match=reason):
        Fallback(Plan(**{"fallback": "default", **plan}), contract, None)
