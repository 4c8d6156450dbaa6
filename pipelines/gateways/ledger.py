"""The ledger: who was put into production, when, and on what evidence. It is only ever added to."""

import fcntl
import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Action = Literal["deployed", "rolled_back"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    model TEXT NOT NULL,
    action TEXT NOT NULL,
    release TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger is only added to'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger is only added to'); END;
"""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    at         UTC, ISO 8601
    tag        of the bento
    port       where its service listened when it took over
    path       where it answers below the shared address
    artifact   its folder, relative to SEATRIAL_HOME where possible
    evidence   digests, verdicts and figures that it was judged by
    """

    sequence: int
    at: str
    model: str
    action: Action
    version: str
    release_id: str
    rung: str
    tag: str
    port: int
    path: str
    artifact: str
    evidence: Mapping[str, Any]


class Ledger(ABC):
    """The record of production."""

    @abstractmethod
    def record(self, model: str, action: Action, release: Mapping[str, Any]) -> Entry:
        """Append an entry; `release` holds its fields from `version` on."""

    @abstractmethod
    def history(self, model: str) -> list[Entry]:
        """All entries of the model, oldest first."""

    @abstractmethod
    def models(self) -> list[str]:
        """All models that were ever in production, by name."""

    @abstractmethod
    def turn(self) -> AbstractContextManager[None]:
        """One change of production at a time: waits until no other program is inside this block."""

    def production(self, model: str) -> Entry | None:
        """What is in production: the entry made last."""
        return next(reversed(self.history(model)), None)


class SqliteLedger(Ledger):
    """A file that appears with the first entry. Several programs may use it at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, model: str, action: Action, release: Mapping[str, Any]) -> Entry:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = (at, model, action, json.dumps(dict(release)))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(SCHEMA)
            cursor = database.execute(
                "INSERT INTO ledger (at, model, action, release) VALUES (?, ?, ?, ?)", row
            )
            return _entry(cursor.lastrowid, *row)

    def history(self, model: str) -> list[Entry]:
        query = "SELECT sequence, at, model, action, release FROM ledger WHERE model = ? ORDER BY sequence"
        return [_entry(*row) for row in self._rows(query, model)]

    def models(self) -> list[str]:
        return [model for (model,) in self._rows("SELECT DISTINCT model FROM ledger ORDER BY model")]

    @contextmanager
    def turn(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _rows(self, query: str, *parameters: str) -> list[tuple]:
        if not self.path.exists():
            return []
        with closing(self._connect()) as database:
            database.executescript(SCHEMA)
            return database.execute(query, parameters).fetchall()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30, isolation_level=None)


def _entry(sequence: int | None, at: str, model: str, action: Action, release: str) -> Entry:
    return Entry(sequence=sequence or 0, at=at, model=model, action=action, **json.loads(release))
