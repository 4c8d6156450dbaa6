"""The ledger as a table of an SQL database; sqlite_ledger and postgres_ledger say where that is.

A row is an entry's number, its text and the text's digest; nothing is said twice. The database itself refuses
to change or delete rows. That stops mistakes; who owns the database can do either, and is found by the chain.
"""

import threading
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateTable

from pipelines.core.entries import DAMAGED, NOTHING, Action, Entry, entry_of, first_fault, sealed, text_of
from pipelines.core.errors import LedgerMoved, LedgerUnusable
from pipelines.core.release import Release
from pipelines.core.rollout.standing import Standing, next_standing
from pipelines.gateways.ledger import Ledger

BACKUP = "restore it from a backup"
WAIT_SECONDS = 30
"""For a file that another program has, or a server that does not answer."""
ROWS = sa.Table(
    "seatrial_ledger",
    sa.MetaData(),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
)


@dataclass
class Known:
    """What was read so far. Entries never change, so only what comes after is ever read again."""

    sequence: int = 0
    digest: str = NOTHING
    histories: dict[str, list[Entry]] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        self.histories.setdefault(entry.model, []).append(entry)
        self.sequence, self.digest = entry.sequence, entry.digest

    def last(self, model: str) -> int:
        history = self.histories.get(model)
        return history[-1].sequence if history else 0


class SqlLedger(Ledger):
    """What they have in common."""

    begin: tuple[str, ...]
    """Begins a transaction that no other writer is in."""
    protection: tuple[str, ...]
    """Makes the new table one that is only added to."""

    def __init__(self, engine: sa.Engine, where: str) -> None:
        self.engine, self.where = engine, where
        self.known, self.lock = Known(), threading.RLock()

    def append(
        self,
        model: str,
        action: Action,
        *,
        after: int,
        release: Release | None = None,
        rollout: int | None = None,
        details: Mapping[str, Any] = {},
    ) -> Entry:
        with self.lock, self._writing() as connection:
            self._catch_up(connection)
            if self.known.last(model) != after:
                raise LedgerMoved(model)
            sequence, at = self.known.sequence + 1, datetime.now(UTC).isoformat(timespec="milliseconds")
            rollout = sequence if action == "started" else rollout
            told = Entry(sequence, at, model, action, release, rollout, details, self.known.digest)
            entry = sealed(told)
            next_standing(self._standing(model), entry)  # what can't be understood can't be taken back either
            row = {"sequence": sequence, "text": text_of(entry), "digest": entry.digest}
            connection.execute(sa.insert(ROWS), row)
        return entry

    def history(self, model: str) -> list[Entry]:
        return list(self._caught_up().histories.get(model, ()))

    def models(self) -> list[str]:
        return sorted(self._caught_up().histories)

    def head(self) -> tuple[int, str]:
        with self.lock:
            known = self._caught_up()
            return known.sequence, known.digest

    def fault(self, head: str = NOTHING) -> str | None:
        if not self.exists:
            return first_fault([], head)
        with self._connected() as connection:
            return first_fault(self._rows(connection, 0), head)

    def standing(self, model: str) -> Standing:
        with self.lock:
            self._caught_up()
            return self._standing(model)

    @property
    def exists(self) -> bool:
        return True

    @abstractmethod
    def _reason(self, error: DBAPIError) -> tuple[str, str]:
        """What is wrong, and the mend."""

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        try:
            with self.engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise LedgerUnusable(self.where, *self._reason(error)) from error

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction; whatever ends it early takes it back."""
        with self._connected() as connection:
            for statement in self.begin:
                connection.exec_driver_sql(statement)
            if not sa.inspect(connection).has_table(ROWS.name):
                for statement in (CreateTable(ROWS), *map(sa.text, self.protection)):
                    connection.execute(statement)
            yield connection
            connection.exec_driver_sql("COMMIT")

    def _rows(self, connection: sa.Connection, since: int) -> Sequence[sa.Row]:
        if not since and not sa.inspect(connection).has_table(ROWS.name):
            return []
        return connection.execute(
            sa.select(ROWS).where(ROWS.c.sequence >= since).order_by(ROWS.c.sequence)
        ).fetchall()

    def _caught_up(self) -> Known:
        with self.lock:
            if not self.exists:
                self.known = Known()
                return self.known
            with self._connected() as connection:
                self._catch_up(connection)
            return self.known

    def _catch_up(self, connection: sa.Connection) -> None:
        """Read what was added. The last one known is read along: if that is another now, so is the ledger."""
        rows = self._rows(connection, self.known.sequence)
        if self.known.sequence and (not rows or rows[0].digest != self.known.digest):
            self.known = Known()
            rows = self._rows(connection, 0)
        for row in rows:
            if row.sequence > self.known.sequence:
                self.known.add(self._entry(*row))

    def _standing(self, model: str) -> Standing:
        """By what is known; only what came since the last call is looked at."""
        found, history = self.known.standings.get(model, Standing()), self.known.histories.get(model, [])
        for entry in history[bisect_right(history, found.last, key=lambda entry: entry.sequence) :]:
            try:
                found = next_standing(found, entry)
            except DAMAGED as error:
                reason = f"entry {entry.sequence} can't be understood ({error!r})"
                raise LedgerUnusable(self.where, reason, "it was written by another version") from error
        self.known.standings[model] = found
        return found

    def _entry(self, sequence: int, text: str, digest: str) -> Entry:
        try:
            return entry_of(text, digest)
        except DAMAGED as error:
            raise LedgerUnusable(self.where, f"entry {sequence} can't be read", BACKUP) from error
