"""A file is scored row by row as the service would, or not at all."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bentos.contract import Contract, Field
from bentos.manifest import sha256
from pipelines.core.errors import ContractBroken, FileMissing
from pipelines.core.scoring import score_file

CONTRACT = Contract(
    inputs=(
        Field("carrier", "int64", categories=("AA", "UA"), open=True),
        Field("origin", "int64", categories=("EWR", "JFK")),
        Field("distance", "float32", minimum=0),
    ),
    outputs=(Field("probability", "float32"), Field("margin", "float32")),
)
GOOD = {
    "flight_id": pa.array([7, 3, 5], pa.int64()),
    "carrier": ["UA", "ZZ", "AA"],
    "origin": ["JFK", "EWR", "EWR"],
    "distance": pa.array([1, 2, 3], pa.float32()),
    "unused": [None, None, None],
}


class Sum:
    """Stands for a session: the sum of what it is fed, so that every input counts."""

    def run(self, feeds):
        total = sum(np.asarray(values, dtype=np.float64) for values in feeds.values())
        return {"probability": total.astype(np.float32), "margin": -total.astype(np.float32)}


def score(tmp_path, table: pa.Table, batch_rows: int = 2):
    pq.write_table(table, tmp_path / "2013-04.parquet")
    return score_file(
        tmp_path / "2013-04.parquet", tmp_path / "scores.parquet", Sum(), CONTRACT, "flight_id", batch_rows
    )


def test_every_row_is_scored_in_order(tmp_path):
    summary = score(tmp_path, pa.table(GOOD))
    scores = pq.read_table(tmp_path / "scores.parquet")
    assert scores.schema == pa.schema(
        [("flight_id", pa.int64()), ("probability", pa.float32()), ("margin", pa.float32())]
    )
    assert scores.to_pydict() == {
        "flight_id": [7, 3, 5],
        "probability": [2 + 2 + 1, 0 + 1 + 2, 1 + 1 + 3],
        "margin": [-5, -3, -5],
    }
    assert summary.rows == 3 and summary.sha256 == sha256(tmp_path / "scores.parquet")
    found = summary.outputs["probability"]
    assert (found.mean, found.minimum, found.maximum) == (pytest.approx(13 / 3), 3, 5)


def test_scores_do_not_depend_on_batches_or_on_how_strings_are_stored(tmp_path):
    rows = 1000
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "flight_id": np.arange(rows),
            "carrier": rng.choice(["AA", "UA", "ZZ"], rows),
            "origin": rng.choice(["EWR", "JFK"], rows),
            "distance": rng.random(rows),
        }
    )
    whole = score(tmp_path, table, batch_rows=rows)
    scores = pq.read_table(tmp_path / "scores.parquet")
    in_batches = score(tmp_path, table.set_column(1, "carrier", table["carrier"].dictionary_encode()), 7)
    assert scores.equals(pq.read_table(tmp_path / "scores.parquet"))
    assert whole.outputs["margin"].mean == pytest.approx(in_batches.outputs["margin"].mean)


def test_memory_does_not_grow_with_the_file(tmp_path):
    source, groups, rows = tmp_path / "long.parquet", 50, 20_000
    rng, allocated = np.random.default_rng(0), []
    part = {"flight_id": np.arange(rows), "carrier": ["AA"] * rows, "origin": ["JFK"] * rows}
    with pq.ParquetWriter(source, pa.table({**part, "distance": rng.random(rows)}).schema) as writer:
        for _ in range(groups):
            writer.write_table(pa.table({**part, "distance": rng.random(rows)}))

    class Watching(Sum):
        def run(self, feeds):
            allocated.append(pa.total_allocated_bytes())
            return super().run(feeds)

    before = pa.total_allocated_bytes()
    score_file(source, tmp_path / "scores.parquet", Watching(), CONTRACT, "flight_id", 4096)
    assert max(allocated) - before < source.stat().st_size / 4


def test_the_same_rows_give_the_same_bytes(tmp_path):
    assert score(tmp_path, pa.table(GOOD)).sha256 == score(tmp_path, pa.table(GOOD)).sha256


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"distance": None}, "the column distance is missing"),
        ({"flight_id": None}, "the column flight_id is missing"),
        ({"distance": ["1", "2", "3"]}, "the column distance holds .*string where numbers are expected"),
        ({"carrier": [1, 2, 3]}, "the column carrier holds int64 where strings are expected"),
        ({"carrier": ["AA", None, "UA"]}, "the column carrier is null in 1 of"),
        ({"origin": ["EWR", "EWR", "LGA"]}, "the column origin 'LGA' is not one of its categories"),
        ({"distance": [1.0, float("nan"), 2.0]}, "the column distance is NaN in 1 of"),
        ({"distance": [1.0, 2.0, None]}, "the column distance is NaN in 1 of"),
        ({"distance": [1.0, 2.0, -3.0]}, "the column distance is below 0"),
    ],
)
def test_a_file_that_breaks_the_contract_leaves_the_old_scores(tmp_path, change, reason):
    score(tmp_path, pa.table(GOOD))
    before = sha256(tmp_path / "scores.parquet")
    broken = {name: values for name, values in {**GOOD, **change}.items() if values is not None}
    with pytest.raises(ContractBroken, match=rf"2013-04\.parquet breaks the contract: {reason}"):
        score(tmp_path, pa.table(broken))
    assert sha256(tmp_path / "scores.parquet") == before
    assert {path.name for path in tmp_path.iterdir()} == {"2013-04.parquet", "scores.parquet"}


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(ContractBroken, match="it has no rows"):
        score(tmp_path, pa.table(GOOD).slice(0, 0))
    assert not (tmp_path / "scores.parquet").exists()


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ContractBroken, match="write it as Parquet"):
        score_file(tmp_path / "rows.csv", tmp_path / "scores", Sum(), CONTRACT, "flight_id", 2)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileMissing, match=r"2014-07\.parquet does not exist"):
        score_file(tmp_path / "2014-07.parquet", tmp_path / "scores", Sum(), CONTRACT, "flight_id", 2)


def test_vectors_go_in_and_come_out_as_lists(tmp_path):
    contract = Contract(
        inputs=(Field("tokens", "int64", (-1, -1)),),
        outputs=(Field("label", "int64"), Field("embedding", "float32", (-1, 2))),
    )

    class Embeds:
        def run(self, feeds):
            totals = feeds["tokens"].sum(1)
            return {"label": totals, "embedding": np.stack([totals, -totals], 1).astype(np.float32)}

    table = pa.table({"id": ["a", "b", "c"], "tokens": [[1, 2], [3], [4, 5]]})
    pq.write_table(table, tmp_path / "rows.parquet")
    score_file(tmp_path / "rows.parquet", tmp_path / "scores.parquet", Embeds(), contract, "id", 2)
    assert pq.read_table(tmp_path / "scores.parquet").to_pylist() == [
        {"id": "a", "label": 3, "embedding": [3.0, -3.0]},
        {"id": "b", "label": 3, "embedding": [3.0, -3.0]},
        {"id": "c", "label": 9, "embedding": [9.0, -9.0]},
    ]
