"""The ledger: what was put into production, when, and on what evidence. It is only ever added to.

Each entry holds the digest of the one before (`pipelines.core.entries`). Whoever adds one says which entry of
the model they have seen last: of two that saw the same, one wins.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from pipelines.core.entries import NOTHING, Action, Entry
from pipelines.core.home import Home
from pipelines.core.release import Release
from pipelines.core.rollout.standing import Standing, standing


class Ledger(ABC):
    """The record of production. Where it can't be read or written, all raise LedgerUnusable."""

    where: str
    """What it is, for messages: a file or an address, without a password."""

    @abstractmethod
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
        """Add an entry; one that says `started` begins a rollout of its own. `after` is the sequence of the
        model's last entry that the caller has seen, 0 where there was none. Raises LedgerMoved if there is a
        newer one by now."""

    @abstractmethod
    def history(self, model: str) -> list[Entry]:
        """All entries of the model, oldest first. Cheap where nothing was added since the last call."""

    @abstractmethod
    def models(self) -> list[str]:
        """All models that have an entry, by name."""

    @abstractmethod
    def head(self) -> tuple[int, str]:
        """Sequence and digest of the last entry of all: who writes them down elsewhere will know of any
        change before it."""

    @abstractmethod
    def fault(self, head: str = NOTHING) -> str | None:
        """What is wrong with the chain, in a sentence, or None where all of it holds. All entries are read
        again. One whose digest is `head`, as it was written down earlier, must be among them."""

    @abstractmethod
    def turn(self) -> AbstractContextManager[None]:
        """One change of production at a time: waits until no other program is inside this block."""

    def standing(self, model: str) -> Standing:
        """What follows from its history."""
        return standing(self.history(model))

    def production(self, model: str) -> Release | None:
        """What is in production."""
        return self.standing(model).production


def open_ledger(url: str | None, home: Home) -> Ledger:
    """That of an installation: the Postgres database at `url`, postgresql+psycopg://USER:PASSWORD@HOST/NAME;
    without one, an SQLite file below home. Raises SettingsInvalid. Nothing is connected to yet."""
    if url:
        from pipelines.gateways.postgres_ledger import PostgresLedger

        return PostgresLedger(url)
    from pipelines.gateways.sqlite_ledger import SqliteLedger  # who only names a ledger needs no SQLAlchemy

    return SqliteLedger(home.ledger)
