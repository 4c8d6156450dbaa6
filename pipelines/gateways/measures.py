"""Metrics of labels or of the business, told by SQL or by a function of the user's: from a step's prediction
log and files to moments by release.

    python -m pipelines.gateways.measures < job.json

computes one and writes it as JSON. It runs beside the controller, as a query may take memory and minutes, and
a function may do anything; neither may keep a rollback waiting.
"""

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.core.home import Home
from pipelines.core.rollout.observation import Moments
from pipelines.core.rollout.watch import PREDICTIONS, Measure
from pipelines.gateways.logged_answers import segments_since

Spans = Mapping[str, tuple[float, float]]
"""From when to before when a release counts, in seconds since the epoch, by its id."""
NICE = 10
ALONE = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
"""DuckDB fetches nothing by itself. (Beyond this, it reads the files of the views and no others.)"""
SMALL = {"threads": 1, "memory_limit": "1GB"}
MOMENTS = "count(value), sum(value::double), sum(value::double * value::double)"
HAS_USER, OF_USER = "\"user\"::VARCHAR != ''", 'release_id, "user", avg(value::double) AS value'
SUMS = "sum(count::double), sum(total::double), sum(squares::double)"


class MeasureFailed(ValueError):
    """Why a metric is not known, as a sentence."""


def job_of(
    measure: Measure, model: str, spans: Spans, home: Home, users_file: Path | None = None
) -> dict[str, Any]:
    """What the process is told. Where users are counted, their values are written to `users_file`, as Parquet
    with release_id, user and value."""
    return {
        "measure": measure.to_dict(),
        "folder": str(home.prediction_log(model)),
        "files": {name: str(home.data(glob)) for name, glob in measure.files.items()},
        "spans": dict(spans),
        "users_file": str(users_file) if users_file else None,
    }


def moments(job: Mapping[str, Any]) -> dict[str, Moments]:
    """By release id. A release without any value is left out, and a value that is null is not counted: it is
    not known yet. Raises MeasureFailed, and whatever a user's function raises."""
    import duckdb
    import pyarrow.parquet as pq

    measure, connection = Measure(**job["measure"]), duckdb.connect(config={**ALONE, **SMALL})
    try:
        tables = _views(connection, job)
        if measure.sql is not None:
            found = _selected(connection, measure.sql)
        else:
            found = _relation(connection, _function(str(measure.function))(tables))
        if {"release_id", "user", "value"} <= set(found.columns):
            found = found.filter(HAS_USER).aggregate(OF_USER)
            if job["users_file"]:
                pq.write_table(found.to_arrow_table(), job["users_file"])
        return _moments(measure.name, found, list(job["spans"]))
    except duckdb.Error as error:
        raise MeasureFailed(f"DuckDB refuses {measure.name}: {error}") from error
    finally:
        connection.close()


def _views(connection, job: Mapping[str, Any]) -> dict[str, Any]:
    """The views by name, and from here on no other file can be read."""
    folder, files = Path(job["folder"]), job["files"]
    segments = segments_since(folder, min(since for since, _ in job["spans"].values()))
    if not segments:
        raise MeasureFailed(f"there is nothing in the prediction log {folder} since the step began")
    logged = connection.read_parquet([str(path) for path in segments], union_by_name=True)
    if "user" not in logged.columns:  # of a service that is older than this column
        logged = logged.project('*, null::varchar as "user"')
    views = {PREDICTIONS: logged.filter(" or ".join(_during(*each) for each in job["spans"].items()))}
    for name, glob in files.items():
        read = connection.read_csv if glob.lower().endswith((".csv", ".csv.gz")) else connection.read_parquet
        views[name] = read(glob)
    tables = {name: view.create_view(name) for name, view in views.items()}
    folders = [str(folder), *map(_folder, files.values())]
    connection.execute(f"SET allowed_directories = [{', '.join(map(_text, folders))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return tables


def _folder(glob: str) -> str:
    """In which all that matches lies."""
    return os.path.dirname(re.split(r"[*?\[{]", glob)[0])  # noqa: PTH120  a Path would drop the last slash


def _during(release: str, span: tuple[float, float]) -> str:
    since, until = span
    before = f" and time < to_timestamp({until})" if math.isfinite(until) else ""
    return f"(release_id = {_text(release)} and time >= to_timestamp({since}){before})"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _selected(connection, sql: str):
    kinds = [statement.type.name for statement in connection.extract_statements(sql)]
    if kinds != ["SELECT"]:
        raise MeasureFailed(f"a metric is one SELECT, and this is {' and '.join(kinds) or 'nothing'}")
    return connection.sql(sql)


def _function(place: str):
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _relation(connection, table):
    """Whatever a function may give back."""
    import duckdb

    if isinstance(table, duckdb.DuckDBPyRelation):
        return table
    return connection.from_arrow(table) if hasattr(table, "schema") else connection.from_df(table)


def _moments(name: str, found, releases: list[str]) -> dict[str, Moments]:
    columns = set(found.columns)
    if columns >= {"release_id", "value"}:
        sums = MOMENTS
    elif columns >= {"release_id", "count", "total", "squares"}:
        sums = SUMS
    else:
        wanted = "release_id and value, or release_id, count, total and squares"
        raise MeasureFailed(f"{name} has the columns {', '.join(found.columns)}, and {wanted} are wanted")
    rows = found.aggregate(f"release_id, {sums}", "release_id").fetchall()
    known = {release: Moments(int(count), total, squares) for release, count, total, squares in rows if count}
    for release in known.keys() & set(releases):
        if not all(map(math.isfinite, (known[release].total, known[release].squares))):
            raise MeasureFailed(f"{name} has values of {release} that are NaN or infinite")
    return {release: known[release] for release in releases if release in known}


def main() -> None:
    """Take one measure. What a user's function prints goes to stderr."""
    os.nice(NICE)
    job, answer = json.load(sys.stdin), sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        try:
            sums = {release: (one.count, one.total, one.squares) for release, one in moments(job).items()}
            said: dict[str, Any] = {"moments": sums}
        except MeasureFailed as failed:
            said = {"trouble": str(failed)}
        except Exception as error:  # noqa: BLE001  a user's function may raise anything
            name = job["measure"]["name"]
            said = {"trouble": f"{name} raised {type(error).__name__}: {error}"}
    json.dump(said, answer)


if __name__ == "__main__":
    main()
