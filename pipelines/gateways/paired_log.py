"""What two releases answered, read side by side from the prediction log: pairs of a shadow, users of an A/B.

DuckDB joins the segments, on disk where memory is short, so a log may be larger than memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from bentos.watching.segments import NAME
from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.agreement import Agreement

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

WHAT, MEMORY, THREADS = "The prediction log", "1GB", 2
DAY = "day"
MOST_SHOWN = 500
"""Characters of an input."""
ALWAYS = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class PairedLog:
    """The folder of a model's prediction log, the release ids of two releases, and from when to when."""

    folder: Path
    stable: str
    canary: str
    between: tuple[datetime, datetime] = ALWAYS

    def pairs(self, output: str, chunk_rows: int = 20_000) -> Iterator[pd.DataFrame]:
        """Rows that both answered, as `core.rollout.agreement` takes them: whole requests in each frame. Of a
        row that one release answered twice, as after a retry, the first answer. Raises SettingsInvalid."""
        arm = f'SELECT request_id, row, time, "output_{_quoted(output)}" AS answer, total_ms AS ms FROM log'
        query = f"""
            SELECT s.request_id, s.row, s.answer AS stable, c.answer AS canary, s.ms AS stable_ms,
                   c.ms AS canary_ms
            FROM ({arm} WHERE release_id = ?) s JOIN ({arm} WHERE release_id = ?) c USING (request_id, row)
            ORDER BY s.request_id, s.row, s.time, c.time"""
        with self._log(f"output_{output}") as log:
            found = log.sql(query, params=[self.stable, self.canary])
            begun = pd.DataFrame()
            for batch in found.to_arrow_reader(chunk_rows):
                rows = batch.to_pandas()
                rows = rows if begun.empty else pd.concat([begun, rows], ignore_index=True)
                goes_on = rows["request_id"] == rows["request_id"].iloc[-1]
                begun = rows.loc[goes_on]
                if not goes_on.all():
                    yield _firsts(rows.loc[~goes_on])
            if len(begun):
                yield _firsts(begun)

    def with_inputs(self, found: Agreement) -> Agreement:
        """The same with what was asked where the releases disagree."""
        ids = [each.request_id for each in found.disagreements]
        query = "SELECT request_id, row, COLUMNS('input_.*') FROM log WHERE release_id = ? AND request_id IN "
        if not ids:
            return found
        with self._log() as log:
            rows = log.sql(f"{query} ({', '.join('?' * len(ids))})", params=[self.stable, *ids])
            asked = {(row["request_id"], row["row"]): row for row in rows.to_arrow_table().to_pylist()}
        shown = [
            replace(each, inputs=_inputs(asked[each.request_id, each.row])) for each in found.disagreements
        ]
        return replace(found, disagreements=tuple(shown))

    def users(self, value: str, stratum: str | None = None) -> pd.DataFrame:
        """A line for each user and arm that answered: user, arm, value and stratum, as
        `core.rollout.stratified` takes them. `value` is a column of the log, such as output_probability, of
        which each has the mean. `stratum` is one too, or "day", as it was in the user's first row; None: all
        are in one. Raises SettingsInvalid."""
        values = f'SELECT "user", release_id, avg("{_quoted(value)}") AS value FROM log GROUP BY ALL'
        return self._by_user(values, stratum, value)

    def users_of(self, file: Path, stratum: str | None = None) -> pd.DataFrame:
        """The same of values that are in a Parquet file: release_id, user and value. Those of users who are
        not in the log are left out."""
        place = str(file).replace("'", "''")
        values = f"""SELECT "user"::VARCHAR AS "user", release_id, value FROM read_parquet('{place}')"""
        return self._by_user(values, stratum)

    def _by_user(self, values: str, stratum: str | None, *columns: str) -> pd.DataFrame:
        day = "strftime(DATE '1970-01-01' + CAST(epoch_us(time) // 86400000000 AS INTEGER), '%Y-%m-%d')"
        by = {None: "''", DAY: day}.get(stratum, f'CAST("{_quoted(stratum or "")}" AS VARCHAR)')
        query = f"""
            WITH first AS (SELECT "user", arg_min(coalesce({by}, 'unknown'), time) AS stratum FROM log
                           WHERE release_id IN ($1, $2) AND "user" != '' GROUP BY "user")
            SELECT "user", if(release_id = $1, 'stable', 'canary') AS arm, value::DOUBLE AS value, stratum
            FROM ({values}) JOIN first USING ("user") WHERE release_id IN ($1, $2) ORDER BY ALL"""
        with self._log("user", *columns, *([stratum] if stratum not in (None, DAY) else [])) as log:
            return log.sql(query, params=[self.stable, self.canary]).df()

    @contextmanager
    def _log(self, *columns: str) -> Iterator["DuckDBPyConnection"]:
        """A connection in which `log` has the rows of the time in question."""
        import duckdb

        segments: Sequence[str] = sorted(map(str, self.folder.glob(NAME)))
        if not segments:
            mend = "it holds no rows; give the folder that the service has as SEATRIAL_CAPTURE_FOLDER"
            raise SettingsInvalid(WHAT, str(self.folder), mend)
        with TemporaryDirectory() as spill, duckdb.connect() as log:
            log.execute(f"SET memory_limit = '{MEMORY}'; SET threads = {THREADS}")
            log.execute("SET temp_directory = ?", [spill])
            try:
                kept = log.read_parquet(list(segments), union_by_name=True)
                if missing := [name for name in columns if name not in kept.columns]:
                    raise SettingsInvalid(
                        WHAT, str(self.folder), f"it has no {missing[0]}; name another column"
                    )
                start, end = (f"TIMESTAMPTZ '{time.astimezone(UTC).isoformat()}'" for time in self.between)
                kept.filter(f"time >= {start} AND time < {end}").create_view("log")
                yield log
            except duckdb.Error as error:
                said = str(error).partition("\n")[0]
                mend = f"it can't be read ({said}); remove what is damaged"
                raise SettingsInvalid(WHAT, str(self.folder), mend) from error


def _firsts(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates(["request_id", "row"])


def _inputs(row: dict[str, Any]) -> dict[str, Any]:
    """What is as long as an image is shown by its beginning."""
    given = {name.removeprefix("input_"): each for name, each in row.items() if name.startswith("input_")}
    return {
        name: f"{str(each)[:MOST_SHOWN]} …" if len(str(each)) > MOST_SHOWN else each
        for name, each in given.items()
    }


def _quoted(name: str) -> str:
    return name.replace('"', '""')
