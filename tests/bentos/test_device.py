"""Buffers bound to a session: the same answers as without, at fixed addresses, whatever is padded. All but
the CUDA graphs runs on the CPU provider."""

import logging
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from bentos.contract import Contract, Field, encode
from bentos.engines.device import SLOTS, BoundEngine, ModelUnusable, _own_thread, open_engine
from bentos.engines.engine import Engine, ModelOutputInvalid, ProviderMissing, WarmUpFailed
from bentos.engines.gpu import ARENA_SHARE, cuda_memory_bytes, providers
from bentos.manifest import Plan
from bentos.schema import columns
from tests.bentos.graphs import save_graph, save_lookup, save_text
from tests.bentos.test_engine import cuda_is_here
from tests.bentos.tiny import CONTRACT, ROW, save_model

PADDED = Plan(max_batch_size=8, padded_batch_sizes=(2, 4), lengths=(4, 16))
NO_GPU = "needs an NVIDIA GPU and onnxruntime-gpu"


def warm(model, contract, plan=PADDED) -> Engine:
    engine = open_engine(model, contract, plan)
    engine.warm_up(plan)
    return engine


def texts(rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"ids": rng.integers(1, 99, (rows, length)), "mask": rng.integers(0, 2, (rows, length))}


def assert_alike(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(found[name], expected[name], strict=True)


def test_the_plan_chooses(tmp_path):
    path, contract = save_text(tmp_path / "m")
    assert type(open_engine(path, contract, Plan())) is Engine
    assert type(open_engine(path, contract, PADDED)) is BoundEngine


def test_answers_like_a_plain_session_at_every_size(tmp_path):
    path, contract = save_text(tmp_path / "m")
    bound, plain = warm(path, contract), Engine(path, contract)
    for rows in (1, 2, 3, 4, 5, 8, 9):  # 9 rows and 40 tokens are more than any buffer holds
        for length in (1, 4, 5, 16, 32, 40):
            feeds = texts(rows, length, seed=rows * length)
            assert_alike(bound.run(feeds), plain.run(feeds))


def test_answers_like_a_plain_session_before_it_is_warm(tmp_path):
    path, contract = save_text(tmp_path / "m")
    assert_alike(
        open_engine(path, contract, PADDED).run(texts(3, 5)), Engine(path, contract).run(texts(3, 5))
    )


def test_takes_tabular_rows(tmp_path):
    path = save_model(tmp_path / "m")
    feeds = encode(CONTRACT, columns(CONTRACT, [{**ROW, "hour": hour} for hour in range(3)]))
    assert_alike(warm(path, CONTRACT).run(feeds), Engine(path, CONTRACT).run(feeds))


def test_warm_up_runs_every_size_at_every_length(tmp_path):
    costs = open_engine(*save_text(tmp_path / "m"), PADDED).warm_up(PADDED)
    assert [cost[:2] for cost in costs] == [(rows, length) for length in (4, 16, 32) for rows in (2, 4, 8)]


def test_an_answer_outlives_the_next_run(tmp_path):
    engine = warm(*save_text(tmp_path / "m"))
    first = engine.run(texts(2, 4))
    kept = {name: value.copy() for name, value in first.items()}
    for seed in range(1, 2 * SLOTS + 1):
        engine.run(texts(2, 4, seed))
    assert_alike(first, kept)


def test_uses_the_same_addresses_again(tmp_path):
    engine = warm(*save_text(tmp_path / "m"))
    free = engine._buffers[2, 4]
    slots = [free.get() for _ in range(SLOTS)]
    for slot in slots:
        free.put(slot)
    before = [value.data_ptr() for slot in slots for value in slot._inputs.values()]
    for seed in range(5):
        engine.run(texts(1, 3, seed))
    assert free.qsize() == SLOTS
    again = [free.get() for _ in range(SLOTS)]
    assert set(map(id, again)) == set(map(id, slots))
    assert [value.data_ptr() for slot in slots for value in slot._inputs.values()] == before


def test_fills_up_with_the_last_row(tmp_path):
    """A made-up row would change what a model takes from its whole batch, such as a quantization scale."""
    path, contract = save_graph(tmp_path / "m", "most = ReduceMin<keepdims = 1>(x) y = Sub(x, most)")
    engine = warm(path, contract)
    assert engine.run({"x": np.array([5, 7, 6], np.float32)})["y"].tolist() == [0, 2, 1]


def test_a_short_text_sees_nothing_of_a_longer_one(tmp_path):
    path, contract = save_text(tmp_path / "m")
    engine, plain = warm(path, contract), Engine(path, contract)
    for length in [14] * SLOTS + [6] * SLOTS:
        feeds = {name: np.ones((3, length), np.int64) for name in ("ids", "mask")}
        assert_alike(engine.run(feeds), plain.run(feeds))


def test_a_failed_run_gives_its_buffers_back(tmp_path):
    engine = warm(*save_lookup(tmp_path / "m"))
    for _ in range(2 * SLOTS):
        with pytest.raises(RuntimeError, match="out of data bounds"):
            engine.run({"x": np.array([1, 9])})
        with pytest.raises(TypeError, match="x holds float64 where int64 is expected"):
            engine.run({"x": np.array([1.0, 2.0])})
    assert engine.run({"x": np.array([1, 3])})["y"].tolist() == [1, 3]


def test_refuses_what_is_not_finite(tmp_path):
    engine = warm(*save_graph(tmp_path / "m", "y = Sqrt(x)"))
    with pytest.raises(ModelOutputInvalid) as told:
        engine.run({"x": np.array([4, -1, 4], np.float32)})
    assert told.value.kind == "not_finite"
    assert engine.run({"x": np.array([4, 4, 9], np.float32)})["y"].tolist() == [2, 2, 3]


def test_many_threads_get_their_own_answers(tmp_path):
    path, contract = save_text(tmp_path / "m")
    engine = warm(path, contract)
    batches = [texts(rows, length, rows + length) for rows in range(1, 9) for length in (3, 4, 9)]
    expected = [Engine(path, contract).run(batch)["total"].tolist() for batch in batches]
    wrong = []

    def work(start: int) -> None:
        for turn in range(start, start + 1000):
            at = turn % len(batches)
            if engine.run(batches[at])["total"].tolist() != expected[at]:
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_keeps_no_buffers_where_padding_could_not_be_cut(tmp_path, caplog):
    path, contract = save_text(tmp_path / "m")
    unnamed = replace(contract, outputs=(contract.outputs[0], replace(contract.outputs[1], axes=())))
    with caplog.at_level(logging.WARNING):
        engine = warm(path, unnamed)
    assert "no input says how long the output each is" in caplog.text
    assert engine.run(texts(3, 5))["each"].shape == (3, 5)


def test_a_batch_that_cannot_run_ends_the_start(tmp_path):
    """Reshape to 4 rows: the batch that the model was exported with became a constant."""
    engine = open_engine(
        *save_graph(tmp_path / "m", "four = Constant<value_ints = [4]>() y = Reshape(x, four)"), PADDED
    )
    with pytest.raises(WarmUpFailed, match="2 rows, which the plan allows") as told:
        engine.warm_up(PADDED)
    assert "\n" not in str(told.value)


def test_runs_in_turn_on_a_thread_of_its_own():
    call = _own_thread()
    names = {call(lambda: threading.current_thread().name) for _ in range(3)}
    assert len(names) == 1 and names != {threading.current_thread().name}
    with pytest.raises(ZeroDivisionError):
        call(lambda: 1 / 0)


def test_never_falls_back_from_an_accelerator(tmp_path):
    if cuda_is_here():
        pytest.skip("a GPU is here, so there is no missing provider to refuse")
    for plan in (Plan(device="cuda"), replace(PADDED, device="cuda")):
        with pytest.raises(ProviderMissing):
            open_engine(*save_text(tmp_path / "m"), plan)


MEMORY = """
import psutil, sys, tracemalloc, numpy as np
from pathlib import Path
from bentos.engines.device import open_engine
from bentos.manifest import Plan
from tests.bentos.graphs import save_text

plan = Plan(max_batch_size=8, padded_batch_sizes=(2, 4), lengths=(4, 16))
engine = open_engine(*save_text(Path(sys.argv[1])), plan)
engine.warm_up(plan)
batches = [{name: np.ones((rows, length), np.int64) for name in ("ids", "mask")}
           for rows in range(1, 10) for length in (3, 16, 40)]

def runs(count):
    for at in range(count):
        engine.run(batches[at % len(batches)])

tracemalloc.start()
runs(1000)
before = tracemalloc.get_traced_memory()[0], psutil.Process().memory_info().rss
runs(10_000)
after = tracemalloc.get_traced_memory()[0], psutil.Process().memory_info().rss
print(after[0] - before[0], after[1] - before[1])
"""


def test_memory_stays_flat(tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "m")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    traced_bytes, resident_bytes = map(int, answer.stdout.split())
    assert traced_bytes < 100_000
    assert resident_bytes < 16 * 2**20


SESSIONS = """
import gc, psutil, sys, numpy as np, onnx
from pathlib import Path
from onnx import numpy_helper, parser
from bentos.contract import Contract, Field
from bentos.engines.device import open_engine
from bentos.manifest import Plan

head = '<ir_version: 10, opset_import: ["" : 20]> g (float[rows, 1024] x) => (float[rows, 1024] y)'
model = parser.parse_model(head + "{y = MatMul(x, w)}")
model.graph.initializer.append(numpy_helper.from_array(np.ones((1024, 1024), np.float32), "w"))
onnx.save(model, sys.argv[1])
contract = Contract((Field("x", "float32", (-1, 1024)),), (Field("y", "float32", (-1, 1024)),))
plan = Plan(max_batch_size=4, padded_batch_sizes=(1, 4))

def open_and_close(times):
    for at in range(times):
        engine = open_engine(Path(sys.argv[1]), contract, plan)
        engine.warm_up(plan)
        if at % 2:
            engine.close()
        del engine
        gc.collect()

open_and_close(5)
before = psutil.Process().memory_info().rss
open_and_close(20)
print(psutil.Process().memory_info().rss - before)
"""


def test_closed_engines_leave_nothing(tmp_path):
    """Twenty sessions with weights of 4 MiB: what is not freed would show as 80 MiB."""
    command = [sys.executable, "-c", SESSIONS, str(tmp_path / "m")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(answer.stdout) < 24 * 2**20


@pytest.mark.gpu
def test_answers_on_cuda_like_on_the_cpu(tmp_path, caplog):
    if not cuda_is_here():
        pytest.skip(NO_GPU)
    path = save_model(tmp_path / "m")
    plan = replace(PADDED, device="cuda")
    with caplog.at_level(logging.WARNING):
        engine = warm(path, CONTRACT, plan)
    assert "CUDA graphs are off" not in caplog.text
    plain = Engine(path, CONTRACT)
    for count in (1, 2, 3, 8, 9, 3, 1):
        feeds = encode(CONTRACT, columns(CONTRACT, [{**ROW, "hour": hour} for hour in range(count)]))
        found, expected = engine.run(feeds), plain.run(feeds)
        np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-5)


@pytest.mark.gpu
def test_threads_share_the_graphs_of_a_session(tmp_path):
    if not cuda_is_here():
        pytest.skip(NO_GPU)
    path, contract = save_graph(tmp_path / "m", "y = Add(x, x)")
    engine = warm(path, contract, replace(PADDED, device="cuda"))
    wrong = []

    def work(number: int) -> None:
        for rows in [1, 2, 4, 7] * 250:
            if engine.run({"x": np.full(rows, number, np.float32)})["y"].tolist() != [2 * number] * rows:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.gpu
def test_a_model_with_branches_runs_without_graphs_and_says_so(tmp_path, caplog):
    if not cuda_is_here():
        pytest.skip(NO_GPU)
    loop = """
        one = Constant<value_float = 0.0>()
        total = ReduceSum<keepdims = 0>(x)
        more = Greater(total, one)
        y = If(more)<then_branch = a () => (float[answers] t) {t = Identity(x)},
                     else_branch = b () => (float[answers] e) {e = Neg(x)}>
    """
    with caplog.at_level(logging.WARNING):
        engine = warm(*save_graph(tmp_path / "m", loop), replace(PADDED, device="cuda"))
    assert "CUDA graphs are off for m: " in caplog.text
    assert engine.run({"x": np.array([-1, -2], np.float32)})["y"].tolist() == [1, 2]


@pytest.mark.gpu
def test_replicas_share_the_memory():
    if not cuda_is_here():
        pytest.skip(NO_GPU)
    plan = Plan(device="cuda", replicas=2, workers=2)
    ((_, options),) = providers(plan)
    assert int(options["gpu_mem_limit"]) <= cuda_memory_bytes() * ARENA_SHARE / 4


def test_a_file_that_is_no_model_is_one_sentence(tmp_path):
    contract = Contract((Field("x", "float32"),), (Field("y", "float32"),))
    for content in (b"", b"no model", save_model(tmp_path / "m").read_bytes()[:-40]):
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(ModelUnusable, match=r"^ONNX Runtime cannot load model.onnx: ") as told:
            open_engine(tmp_path / "model.onnx", contract, Plan())
        assert "\n" not in str(told.value)
    with pytest.raises(ModelUnusable):
        open_engine(tmp_path / "missing.onnx", contract, PADDED)
