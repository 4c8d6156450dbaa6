"""Rows out of a prediction log that the service's own code wrote."""

import time
from pathlib import Path

import numpy as np
import pytest

from bentos.contract import Contract, Field, Text, encode
from bentos.manifest import Manifest, Plan
from bentos.schema import columns
from bentos.settings import Settings
from bentos.watching import segments
from bentos.watching.capture import Capture
from bentos.watching.metrics import Metrics
from bentos.work import Job
from pipelines.core.errors import SettingsInvalid
from pipelines.gateways.prediction_log import logged_rows
from tests.bentos.tiny import CONTRACT, ROW

TEXT = Contract(
    (Field("ids", "int64", (-1, -1)), Field("age", "int32")),
    (Field("probability", "float32"),),
    Text("words", "tokenizer.json", 8, "ids"),
)


def log(folder: Path, rows: list[dict] | None = None, feeds=None, contract: Contract = CONTRACT) -> None:
    """One segment of these rows, which came as JSON or as tensors."""
    manifest = Manifest("tiny", "3", "v3-0a", "fp32", "", contract, Plan(capture_share=1.0))
    capture = Capture(Settings(capture_folder=folder), manifest, Metrics())
    size, now = len(rows or feeds["hour"]), time.monotonic()
    outputs = {"probability": np.full(size, 0.25, "float32")}
    capture.offer(Job(lambda job: None, size, now, now, rows, feeds, outputs=outputs, request_id="r"))
    capture.close()


def at(hour: int, **others) -> dict:
    return {**ROW, "hour": hour, **others}


def test_rows_come_back_as_they_were_sent(tmp_path):
    sent = [at(1), at(2, wind=4.5, origin="LGA"), at(3)]
    log(tmp_path, sent[:2])
    log(tmp_path, sent[2:])
    assert logged_rows(tmp_path, CONTRACT, 10, seed=0) == sent


def test_rows_are_drawn_from_all_segments_and_the_same_for_a_seed(tmp_path):
    for hours in (range(8), range(8, 16), range(16, 24)):
        log(tmp_path, [at(hour) for hour in hours])
    drawn = [row["hour"] for row in logged_rows(tmp_path, CONTRACT, 12, seed=1)]
    assert drawn == sorted(set(drawn)) and len(drawn) == 12
    assert {hour // 8 for hour in drawn} == {0, 1, 2}
    assert drawn == [row["hour"] for row in logged_rows(tmp_path, CONTRACT, 12, seed=1)]
    assert drawn != [row["hour"] for row in logged_rows(tmp_path, CONTRACT, 12, seed=2)]


def test_tensors_come_back_as_rows(tmp_path):
    sent = [at(1), at(2, wind=4.5, origin="LGA")]
    log(tmp_path, feeds=encode(CONTRACT, columns(CONTRACT, sent)))
    assert logged_rows(tmp_path, CONTRACT, 10, seed=0) == [sent[0], {**sent[1], "origin": ""}]


def test_texts_come_back_in_place_of_their_tokens(tmp_path):
    log(tmp_path, [{"words": "two words", "ids": [1, 2], "age": 7}], contract=TEXT)
    log(tmp_path, [{"ids": [3], "age": 8}], contract=TEXT)
    assert logged_rows(tmp_path, TEXT, 10, seed=0) == [
        {"words": "two words", "age": 7},
        {"ids": [3], "age": 8},
    ]


def test_a_segment_that_can_not_be_read_is_named(tmp_path):
    log(tmp_path, [at(1)])
    segment = next(tmp_path.glob(segments.NAME))
    segment.write_bytes(segment.read_bytes()[:-8])
    with pytest.raises(SettingsInvalid, match=rf"{segment.name}.*can't be read"):
        logged_rows(tmp_path, CONTRACT, 10, seed=0)


def test_the_log_of_another_model_is_named(tmp_path):
    log(tmp_path, [at(1)])
    with pytest.raises(SettingsInvalid, match="it has no input_ids"):
        logged_rows(tmp_path, TEXT, 10, seed=0)


def test_a_log_without_rows_is_named(tmp_path):
    with pytest.raises(SettingsInvalid, match="holds no rows"):
        logged_rows(tmp_path / "nowhere", CONTRACT, 10, seed=0)
