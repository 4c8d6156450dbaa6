"""The ledger as a file."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pipelines.gateways.sql_ledger import BACKUP, WAIT_SECONDS, SqlLedger


class SqliteLedger(SqlLedger):
    """A file that appears with the first entry. Several programs may use it at once.

    It keeps SQLite's rollback journal: programs that turn a new file to WAL together do not wait for each
    other, but are told "database is locked" at once.
    """

    begin = ("BEGIN IMMEDIATE",)
    protection = tuple(
        f"CREATE TRIGGER no_{change} BEFORE {change} ON seatrial_ledger "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is only added to'); END"
        for change in ("UPDATE", "DELETE")
    )

    def __init__(self, path: Path) -> None:
        self.path, url = path, URL.create("sqlite", database=str(path))
        waits = {"timeout": WAIT_SECONDS}
        super().__init__(
            create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args=waits),
            str(path),
        )

    @property
    def exists(self) -> bool:
        return self.path.exists()

    @contextmanager
    def turn(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with super()._writing() as connection:
            yield connection

    def _reason(self, error: DBAPIError) -> tuple[str, str]:
        return str(error.orig), f"see to the disk and the file's permissions, or {BACKUP}"
