"""What was answered is found again in Parquet, by one schema; a full buffer or disk costs rows, counted."""

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from bentos.contract import Contract, Field, Text, encode
from bentos.manifest import Manifest, Plan
from bentos.schema import columns
from bentos.settings import Settings
from bentos.watching import capture as capture_module
from bentos.watching import segments
from bentos.watching.capture import Capture
from bentos.watching.metrics import PLACES, Metrics
from bentos.work import Job
from tests.bentos.tiny import CONTRACT, ROW

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_ticks(monkeypatch):
    """The thread works when the log is closed, so that what it does is the same in every run."""
    monkeypatch.setattr(capture_module, "TICK_SECONDS", 3600)


def opened(folder: Path, contract: Contract = CONTRACT, share: float = 1.0, **settings) -> Capture:
    manifest = Manifest("tiny", "3", "v3-0a", "fp32", "", contract, Plan(capture_share=share))
    return Capture(Settings(capture_folder=folder, **settings), manifest, Metrics())


def job(size: int = 1, **fields) -> Job:
    now = time.monotonic()
    given = {
        "size": size,
        "rows": [ROW] * size,
        "outputs": {"probability": np.full(size, 0.25, "float32")},
        "way": "predict",
        "request_id": "r1",
        "deadline": now,
        "arrived": now - 4,
        "started": now - 3,
        "finished": now - 1,
    }
    return Job(**{"done": lambda job: None, **given, **fields})


def counted(capture: Capture) -> tuple[int, int]:
    """Rows logged and dropped."""
    slots = capture._metrics._slots
    return int(slots[PLACES["prediction_log", "logged"]]), int(slots[PLACES["prediction_log", "dropped"]])


def logged(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder)


def test_a_row_says_all_about_its_answer(tmp_path):
    capture = opened(tmp_path)
    before = datetime.now(UTC)
    capture.offer(job(2, outputs={"probability": np.float32([0.25, np.nan])}))
    capture.close()
    assert counted(capture) == (2, 0)
    frame = logged(tmp_path)
    assert abs((frame.time[0] - before).total_seconds() + 4) < 1
    assert frame.queue_ms.tolist() == pytest.approx([1000] * 2)
    assert frame.model_ms.tolist() == pytest.approx([2000] * 2)
    assert (frame.total_ms >= 4000).all()
    rest = frame.drop(columns=["time", "queue_ms", "model_ms", "total_ms"])
    assert json.loads(rest.to_json(orient="records")) == [
        {
            "request_id": "r1",
            "row": row,
            "user": None,
            "model": "tiny",
            "version": "3",
            "release_id": "v3-0a",
            "way": "predict",
            "source": "model",
            **{f"input_{name}": value for name, value in ROW.items()},
            "output_probability": probability,
        }
        for row, probability in enumerate([0.25, None])
    ]


def test_a_row_says_whose_it_is(tmp_path):
    capture = opened(tmp_path)
    for head in ({b"x-user-id": b"ann"}, {b"x-user-id": b"\xff"}, {b"accept": b"*/*"}, None):
        capture.offer(job(2, trace=head))
    capture.close()
    assert logged(tmp_path).user.tolist() == ["ann", "ann", "\ufffd", "\ufffd", None, None, None, None]


def test_rows_and_their_tensors_look_alike(tmp_path):
    rows = [ROW, {**ROW, "wind": 4.1, "carrier": "B6", "dep delay": 2**24 + 1}]
    for name, given in (
        ("rows", {"rows": rows}),
        ("feeds", {"rows": None, "feeds": encode(CONTRACT, columns(CONTRACT, rows))}),
    ):
        capture = opened(tmp_path / name)
        capture.offer(job(2, **given))
        capture.close()
    one, other = (pq.read_table(tmp_path / name) for name in ("rows", "feeds"))
    assert one.schema == other.schema
    inputs = [name for name in one.schema.names if name.startswith("input_")]
    assert one.select(inputs).equals(other.select(inputs))
    assert one.select(inputs).to_pylist()[0] == {f"input_{name}": value for name, value in ROW.items()}


def test_a_category_that_nobody_knew_keeps_its_name(tmp_path):
    capture = opened(tmp_path)
    rows = [{**ROW, "origin": "LGA"}]
    capture.offer(job(rows=rows))
    capture.offer(job(rows=None, feeds=encode(CONTRACT, columns(CONTRACT, rows))))
    capture.close()
    assert logged(tmp_path).input_origin.tolist() == ["LGA", None]


NESTED = Contract(
    (
        Field("ids", "int64", (-1, -1)),
        Field("grid", "float32", (-1, -1, 2), nullable=True),
        Field("tags", "int64", (-1, 2), categories=("a", "b")),
        Field("half", "float16"),
        Field("yes", "bool"),
        Field("big", "uint64"),
    ),
    (Field("logits", "float32", (-1, -1, 2)), Field("label", "int64")),
    Text("said", "tokenizer.json", 16, "ids"),
)
NESTED_ROWS = [
    {"ids": [1, 2, 3], "grid": [[1, None]], "tags": ["b", "a"], "half": 0.5, "yes": True, "big": 2**64 - 1},
    {"ids": [4], "grid": [[1.5, 2], [3, 4]], "tags": ["a", "a"], "half": 0.25, "yes": False, "big": 0},
]


def test_lists_and_texts_are_kept(tmp_path):
    capture = opened(tmp_path, NESTED)
    outputs = {"logits": np.zeros((1, 3, 2), "float32"), "label": np.array([1])}
    tokenized = {**NESTED_ROWS[1], "ids": np.array(NESTED_ROWS[1]["ids"])}
    for row in (NESTED_ROWS[0], tokenized):
        capture.offer(job(rows=[{**row, "said": "hello"}], length=3, outputs=outputs))
    feeds = encode(NESTED, columns(NESTED, [{**NESTED_ROWS[1], "half": 1.0}]))
    capture.offer(job(rows=None, feeds=feeds, outputs={**outputs, "logits": np.zeros((1, 1, 2), "float32")}))
    capture.close()
    assert counted(capture) == (3, 0)
    found = pq.read_table(tmp_path).to_pylist()
    assert [row["input_ids"] for row in found] == [[1, 2, 3], [4], [4]]
    assert [row["input_grid"] for row in found] == [[[1, None]], [[1.5, 2], [3, 4]], [[1.5, 2], [3, 4]]]
    assert [row["input_tags"] for row in found] == [["b", "a"], ["a", "a"], ["a", "a"]]
    assert [row["input_big"] for row in found] == [2**64 - 1, 0, 0]
    assert [row["input_said"] for row in found] == ["hello", "hello", None]
    assert [row["output_logits"] for row in found] == [[[0, 0]] * 3] * 2 + [[[0, 0]]]


def test_an_answer_of_no_model_has_no_times_in_it(tmp_path):
    capture = opened(tmp_path)
    capture.offer(job(started=0.0, finished=0.0))
    capture.offer(job(started=0.0, finished=0.0, fallback="default"))
    capture.close()
    frame = logged(tmp_path)
    assert frame.source.tolist() == ["cache", "default"]
    assert frame[["queue_ms", "model_ms"]].isna().all(axis=None) and (frame.total_ms > 0).all()


def test_requests_without_a_name_get_one(tmp_path):
    capture = opened(tmp_path)
    for _ in range(3):
        capture.offer(job(2, request_id=""))
    capture.close()
    assert logged(tmp_path).groupby("request_id").row.apply(list).tolist() == [[0, 1]] * 3


def test_the_share_is_chosen_by_request_id(tmp_path):
    names = [f"request-{number}" for number in range(2000)]
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        capture = opened(folder, share=0.25)
        for name in names:
            capture.offer(job(request_id=name))
        capture.close()
        found.append(logged(folder).request_id.tolist())
    assert found[0] == found[1] and 400 < len(found[0]) < 600
    nothing = opened(tmp_path / "c", share=0.0)
    nothing.offer(job())
    nothing.close()
    assert not (tmp_path / "c").exists()


def test_a_full_buffer_drops_and_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(capture_module, "BUFFER_VALUES", 6 * 25)
    capture = opened(tmp_path)
    capture.offer(job(26))
    for _ in range(30):
        capture.offer(job())
    capture.close()
    assert counted(capture) == (25, 31)
    assert len(logged(tmp_path)) == 25


def test_full_segments_are_written_and_the_oldest_make_room(tmp_path):
    capture = opened(tmp_path, capture_segment_bytes=1, capture_total_bytes=60_000)
    for number in range(20):
        capture.offer(job(256, request_id=str(number)))
    capture.close()
    assert counted(capture) == (20 * 256, 0)
    paths = [*tmp_path.iterdir()]
    assert 1 < len(paths) < 20 and sum(path.stat().st_size for path in paths) <= 60_000
    assert "19" in set(logged(tmp_path).request_id) and "0" not in set(logged(tmp_path).request_id)


def test_a_segment_has_few_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "ROW_GROUP_ROWS", 1000)
    capture = opened(tmp_path)
    for _ in range(2500):
        capture.offer(job())
    capture.close()
    (path,) = tmp_path.iterdir()
    groups = pq.ParquetFile(path).metadata
    assert [groups.row_group(at).num_rows for at in range(groups.num_row_groups)] == [1000, 1000, 500]


def test_what_arrow_refuses_costs_its_chunk_only(tmp_path, caplog):
    capture = opened(tmp_path)
    capture.offer(job(256))
    capture.offer(job(rows=[{}]))
    capture.close()
    assert counted(capture) == (256, 1)
    assert len(caplog.records) == 1


def test_a_folder_that_cannot_be_one_costs_rows_only(tmp_path, caplog):
    (tmp_path / "log").write_text("in the way")
    capture = opened(tmp_path / "log", capture_segment_bytes=1)
    for _ in range(4):
        capture.offer(job(256))
    capture.close()
    assert counted(capture) == (0, 4 * 256)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_remains_of_a_crash_are_removed_and_work_in_progress_is_not(tmp_path):
    remains, progress = (tmp_path / f".predictions-{name}.parquet.tmp" for name in "ab")
    remains.write_bytes(b"PAR1")
    with progress.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        opened(tmp_path).close()
    assert [*tmp_path.iterdir()] == [progress]


PROGRAM = """
import resource, signal, sys, time
from pathlib import Path
from bentos.watching import capture as module
from tests.bentos.test_capture import counted, job, opened
module.TICK_SECONDS = 0.001
capture = opened(Path(sys.argv[1]), capture_segment_seconds=0.001)
def until(wanted):
    while counted(capture) != wanted:
        time.sleep(0.001)
"""
FULL_DISK = """
def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
capture.offer(job(10)); until((10, 0))
room(1000)
capture.offer(job(20)); until((10, 20))
capture.offer(job(30)); until((10, 50))
room(resource.RLIM_INFINITY)
capture.offer(job(40)); until((50, 50))
"""
FOR_EVER = """
while True:
    capture.offer(job(100))
    time.sleep(0.001)
"""


def test_a_full_disk_costs_rows_until_there_is_room(tmp_path):
    """A limit on the size of files stands for the disk."""
    program = [sys.executable, "-c", PROGRAM + FULL_DISK, str(tmp_path)]
    found = subprocess.run(program, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("missing") == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"] * 2
    assert len(logged(tmp_path)) == 50


def test_a_killed_worker_leaves_whole_segments(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", PROGRAM + FOR_EVER, str(tmp_path)], cwd=PROJECT)
    try:
        while len([*tmp_path.glob("predictions-*")]) < 2:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    opened(tmp_path).close()
    assert all(len(pq.read_table(path)) % 100 == 0 for path in tmp_path.iterdir())
