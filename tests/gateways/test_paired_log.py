"""Two releases side by side, out of segments as the service writes them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bentos.contract import Contract, Field
from bentos.watching import records, segments
from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.agreement import Same, agreement
from pipelines.core.rollout.stratified import stratified
from pipelines.gateways.paired_log import PairedLog

CONTRACT = Contract(
    (Field("carrier", "int64", categories=("AA", "DL")), Field("lags", "float32", (-1, 2))),
    (Field("probability", "float32"),),
)
SCHEMA, START = records.schema(CONTRACT), datetime(2026, 3, 1, 23, tzinfo=UTC)


def write(folder: Path, release: str, requests: list[str], answers: list, **others) -> None:
    """A segment of one row a request, a minute apart."""
    count = len(requests)
    columns = {
        "request_id": requests,
        "row": [0] * count,
        "time": [START + timedelta(minutes=at) for at in range(count)],
        "release_id": [release] * count,
        "input_carrier": [("AA", "DL")[at % 2] for at in range(count)],
        "input_lags": [[at, -at] for at in range(count)],
        "output_probability": answers,
        "total_ms": [5.0 if release == "old" else 7.0] * count,
        **others,
    }
    table = pa.table({name: pa.array(each) for name, each in columns.items()})
    wanted = [field for field in SCHEMA if field.name in columns and field.name != "user"]
    known = [*wanted, *([pa.field("user", pa.string())] if "user" in others else [])]
    segments.write(folder, table.select([field.name for field in known]).cast(pa.schema(known)))


def both(folder: Path) -> PairedLog:
    return PairedLog(folder, "old", "new")


def test_requests_that_both_answered_are_joined_across_segments(tmp_path):
    ids = [f"r{at:02}" for at in range(30)]
    write(tmp_path, "old", ids[:15], [0.2] * 15)
    write(tmp_path, "new", ids[10:], [0.2] * 19 + [0.9])
    write(tmp_path, "old", ids[15:], [0.2] * 15)
    write(tmp_path, "another", ids, [0.7] * 30)
    chunks = list(both(tmp_path).pairs("probability", chunk_rows=7))
    assert [each for chunk in chunks for each in chunk["request_id"]] == ids[10:]
    found = both(tmp_path).with_inputs(agreement(chunks, Same("probability")))
    assert found.requests == 20 and found.agree.value == 0.95
    assert found.slower_ms["p50"].value == pytest.approx(2.0, rel=0.05)
    (worst,) = found.disagreements
    assert (worst.request_id, worst.inputs) == ("r29", {"carrier": "AA", "lags": [14.0, -14.0]})


def test_a_long_input_is_shown_by_its_beginning(tmp_path):
    for release, answer in (("old", 0.1), ("new", 0.9)):
        write(tmp_path, release, ["r"], [answer], input_lags=[[1 / 3] * 1000])
    log = both(tmp_path)
    (only,) = log.with_inputs(agreement(log.pairs("probability"), Same("probability"))).disagreements
    assert only.inputs["lags"].startswith("[0.33") and len(only.inputs["lags"]) == 502


def test_all_rows_of_a_request_are_in_one_chunk(tmp_path):
    ids, rows = [f"r{at // 5}" for at in range(100)], [at % 5 for at in range(100)]
    for release in ("old", "new"):
        write(tmp_path, release, ids, [0.5] * 100, row=rows)
    chunks = [set(chunk["request_id"]) for chunk in both(tmp_path).pairs("probability", chunk_rows=7)]
    assert len(set.union(*chunks)) == sum(map(len, chunks)) == 20


def test_of_a_row_that_was_answered_twice_the_first_answer_counts(tmp_path):
    write(tmp_path, "old", ["r", "r"], [0.1, 0.2])
    write(tmp_path, "new", ["r", "r", "r"], [0.3, 0.4, 0.5])
    (chunk,) = both(tmp_path).pairs("probability")
    assert chunk[["stable", "canary"]].to_numpy() == pytest.approx(np.array([[0.1, 0.3]]))


def test_only_the_time_in_question_counts(tmp_path):
    for release in ("old", "new"):
        write(tmp_path, release, ["a", "b", "c"], [0.5] * 3)
    within = PairedLog(tmp_path, "old", "new", (START + timedelta(minutes=1), START + timedelta(minutes=2)))
    assert [list(chunk["request_id"]) for chunk in within.pairs("probability")] == [["b"]]


def test_releases_that_share_no_request_have_no_pairs(tmp_path):
    write(tmp_path, "old", ["a"], [0.5])
    write(tmp_path, "new", ["b"], [0.5])
    found = agreement(both(tmp_path).pairs("probability"), Same("probability"))
    assert found.requests == 0 and both(tmp_path).with_inputs(found) == found


def test_users_have_one_value_an_arm_and_the_stratum_of_their_first_row(tmp_path):
    write(tmp_path, "old", list("abcd"), [0.1, 0.3, 0.5, 0.7], user=["ann", "bob", "ann", ""])
    write(tmp_path, "new", list("ef"), [0.9, None], user=["cem", "ann"])
    users = both(tmp_path).users("output_probability", "input_carrier")
    assert users[["user", "arm", "stratum"]].to_numpy().tolist() == [
        ["ann", "canary", "AA"],
        ["ann", "stable", "AA"],
        ["bob", "stable", "DL"],
        ["cem", "canary", "AA"],
    ]
    assert users["value"].to_numpy() == pytest.approx([np.nan, 0.3, 0.3, 0.9], nan_ok=True)
    assert stratified(users, "probability").in_both == 1
    assert set(both(tmp_path).users("output_probability", "day")["stratum"]) == {"2026-03-01"}
    assert set(both(tmp_path).users("total_ms")["stratum"]) == {""}


def test_values_of_users_from_elsewhere_have_the_strata_of_the_log(tmp_path):
    write(tmp_path, "old", list("ab"), [0.1, 0.3], user=["1", "2"])
    write(tmp_path, "new", ["c"], [0.9], user=["3"])
    columns = {"release_id": ["old", "new", "new", "else"], "user": [1, 3, 4, 2], "value": [10, 30, 40, 20]}
    pq.write_table(pa.table(columns), file := tmp_path / "it's.users")
    users = both(tmp_path).users_of(file, "input_carrier")
    assert users.to_numpy().tolist() == [["1", "stable", 10.0, "AA"], ["3", "canary", 30.0, "AA"]]


def test_older_segments_have_no_user(tmp_path):
    write(tmp_path, "old", ["a"], [0.1])
    write(tmp_path, "new", ["b"], [0.2], user=["ann"])
    assert both(tmp_path).users("total_ms")["user"].tolist() == ["ann"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: None, "it holds no rows; give the folder"),
        (lambda folder: write(folder, "old", ["a"], [0.1]), "it has no output_score; name another column"),
        (lambda folder: (folder / "predictions-1.parquet").write_text("PAR"), "remove what is damaged"),
    ],
    ids=["empty", "another model's", "damaged"],
)
def test_a_log_that_does_not_serve_is_refused(tmp_path, spoil, says: str):
    spoil(tmp_path)
    with pytest.raises(SettingsInvalid, match=says):
        list(both(tmp_path).pairs("score"))
