"""The profile of a model: by engines that move a clock of their own, and once by ONNX Runtime."""

import time
from threading import Lock
from types import SimpleNamespace

import numpy as np
import pytest

from bentos.contract import Contract, Field
from bentos.manifest import Plan, sha256
from pipelines.core.capacity.batches import Batches
from pipelines.core.capacity.measuring import LANE_US, MOST_ROWS, measure
from tests.core import nets

NUMBERS = Contract((Field("x", "float32", (-1, 2)),), (Field("y", "float32"),))
TOKENS = Contract(
    (Field("ids", "int64", (-1, -1), axes=("tokens",), max_length=100),), (Field("y", "float32"),)
)
ROWS = [{"x": [float(at), 0.5]} for at in range(5)]
TEXTS = [{"ids": [7] * length} for length in (3, 5, 8, 12, 16, 40)]
FIXED_MS, ROW_MS, TOKEN_MS = 1.0, 0.5, 0.01


class Bench:
    """A clock that only engines move, and all that was asked of them."""

    def __init__(self) -> None:
        self.seconds, self.lock, self.runs, self.plans, self.open = 0.0, Lock(), [], [], 0

    def clock(self) -> float:
        return self.seconds

    def opens(self, model, contract, plan) -> "Engine":
        self.plans.append(plan)
        self.open += 1
        return Engine(self, plan.threads)


class Engine:
    """1 ms a run and ½ ms a row, shared by its threads, and for each token of the padded batch a bit."""

    def __init__(self, bench: Bench, threads: int) -> None:
        self.bench, self.threads, self.warmed = bench, threads, False

    def run(self, feeds):
        (tensor,) = feeds.values()
        rows, length = len(tensor), tensor.shape[1]
        with self.bench.lock:
            self.bench.runs.append((self.threads, rows, length))
            self.bench.seconds += (FIXED_MS + ROW_MS * rows / self.threads + TOKEN_MS * rows * length) / 1000
        return {"y": np.zeros(rows, np.float32)}

    def warm_up(self, plan):
        self.warmed = True

    def close(self) -> None:
        self.bench.open -= 1


@pytest.fixture
def model(tmp_path):
    (path := tmp_path / "model.onnx").write_bytes(b"a model")
    return path


def profiled(model, contract=NUMBERS, rows=ROWS, plan=None, too_long_ms=1000.0, cores=1):
    bench = Bench()
    plan = plan or Plan()
    profile = measure(
        model, contract, rows, plan, too_long_ms, bench.clock, cores, "a machine", opens=bench.opens
    )
    return profile, bench


def table(profile, threads=1):
    return {(rows, length): ms for rows, length, ms in profile.costs[threads]}


def test_each_batch_costs_what_it_takes(model):
    profile, bench = profiled(model)
    took = table(profile)
    assert [rows for rows, _ in took] == [1, 2, 4, 8, 16, 32, 64, 128, MOST_ROWS]
    assert took[64, 0] == pytest.approx(FIXED_MS + 64 * (ROW_MS + 2 * TOKEN_MS))
    assert (profile.subject, profile.machine, profile.device) == (sha256(model), "a machine", "cpu")
    assert bench.open == 0, "every session is closed again"


def test_every_number_of_threads_up_to_the_cores_and_the_plans_own_are_measured(model):
    profile, _ = profiled(model, plan=Plan(threads=3, max_batch_size=48), cores=4)
    assert sorted(profile.costs) == [1, 2, 3, 4]
    assert table(profile, 4)[8, 0] == pytest.approx(FIXED_MS + 8 * (ROW_MS / 4 + 2 * TOKEN_MS))
    assert (48, 0) in table(profile, 3)


def test_cells_are_run_turn_about(model):
    _, bench = profiled(model, cores=2)
    rounds = [run for at, run in enumerate(bench.runs) if at == 0 or bench.runs[at - 1] != run]
    assert rounds.count((1, 1, 2)) > 3 < rounds.count((2, 1, 2))


def test_nothing_is_measured_beyond_a_batch_that_takes_too_long(model):
    profile, bench = profiled(model, too_long_ms=10)
    assert [rows for rows, _ in table(profile)] == [1, 2, 4, 8, 16, 32]
    assert table(profile)[16, 0] < 10 < table(profile)[32, 0]
    assert max(rows for _, rows, _ in bench.runs) == 32


def test_a_first_run_that_is_too_long_is_still_told(model):
    profile, _ = profiled(model, too_long_ms=1)
    assert list(table(profile)) == [(1, 0)]


def test_every_bucket_of_lengths_is_measured_at_its_end(model):
    profile, bench = profiled(model, TOKENS, TEXTS, Plan(lengths=(8, 16, 64)), too_long_ms=50)
    assert {length for _, length in table(profile)} == {8, 16, 64}
    assert table(profile)[4, 16] == pytest.approx(FIXED_MS + 4 * (ROW_MS + 16 * TOKEN_MS))
    assert {length for _, _, length in bench.runs} == {8, 16, 64}
    assert profile.lengths == (3, 5, 8, 12, 16, 40)


def test_rows_are_real_and_only_the_first_is_stretched():
    batches = Batches(TOKENS, [{"ids": [1, 2, 3]}, {"ids": [4] * 20}])
    assert batches.feeds(2, 8)["ids"].tolist() == [[1, 2, 3, 1, 2, 3, 1, 2], [1, 2, 3, 0, 0, 0, 0, 0]]
    assert batches.feeds(1, 2)["ids"].tolist() == [[1, 2]], "none is so short: one is cut"


def test_a_text_is_measured_as_its_tokens():
    contract = Contract.from_dict(
        TOKENS.to_dict() | {"text": {"name": "text", "file": "t.json", "max_tokens": 9, "ids": "ids"}}
    )
    tokenizer = SimpleNamespace(
        rows=lambda texts: [{"ids": [len(text)] * len(text.split())} for text in texts]
    )
    batches = Batches(contract, [{"text": "so be it"}, {"text": "yes"}], tokenizer)
    assert batches.lengths == [3, 1]
    assert batches.feeds(2, 4)["ids"].tolist() == [[8, 8, 8, 8], [3, 0, 0, 0]]
    assert batches.requests(5, {"y": np.zeros(1, np.float32)})() == 2


def test_crowding_is_how_much_longer_runs_take_beside_each_other(model):
    """The engines here share one clock, as if on one core: n at once take n times as long."""
    profile, _ = profiled(model, cores=4)
    assert profile.crowding == pytest.approx({1: 4, 2: 2, 4: 1})


def test_a_gpu_is_measured_with_padded_batches_and_shared_by_sessions(model):
    profile, bench = profiled(model, plan=Plan(device="cuda", max_batch_size=48), cores=8)
    assert sorted(profile.costs) == [1] and sorted(profile.crowding) == [1, 2, 4]
    assert bench.plans[0].padded_batch_sizes == (1, 2, 4, 8, 16, 32, 48, 64, 128, 256)
    assert [plan.replicas for plan in bench.plans] == [1, 1, 2, 2, 4, 4, 4, 4], "they share its memory"


def test_what_a_request_takes_beside_the_batch_is_counted(model):
    ticks = iter(range(10**6))
    bench = Bench()
    profile = measure(
        model, NUMBERS, ROWS, Plan(), 1, lambda: next(ticks) * 1e-3, 1, "a machine", opens=bench.opens
    )
    assert profile.request_us == pytest.approx(LANE_US + 1000 / len(ROWS))


def test_a_model_that_fails_is_not_measured(model):
    bench = Bench()

    def opens(*_):
        engine = bench.opens(*_)
        engine.run = lambda feeds: 1 / 0
        return engine

    with pytest.raises(ZeroDivisionError):
        measure(model, NUMBERS, ROWS, Plan(), 100, bench.clock, 1, "a machine", opens=opens)
    assert bench.open == 0


def test_a_real_model_costs_more_the_more_rows_there_are(tmp_path):
    contract = Contract((Field("x", "float32", (-1, 2)),), (Field("y", "float32", (-1, 2)),))
    profile = measure(
        nets.handmade(tmp_path / "m.onnx"), contract, ROWS, Plan(), 50, time.perf_counter, 2, "here"
    )
    for threads in (1, 2):
        took = [ms for _, _, ms in profile.costs[threads]]
        assert len(took) == 9 and all(ms > 0 for ms in took) and took[0] < took[-1]
    assert set(profile.crowding) == {1, 2} and profile.crowding[1] >= profile.crowding[2] == 1
    assert profile.request_us > LANE_US and profile.lengths == ()
