"""A ledger in memory; its clock advances a second with each entry."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.core.entries import NOTHING, Action, Entry, first_fault, sealed, text_of
from pipelines.core.errors import LedgerMoved
from pipelines.core.release import Release
from pipelines.core.rollout.standing import next_standing
from pipelines.gateways.ledger import Ledger


class FakeLedger(Ledger):
    where = "in memory"

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.lock = threading.Lock()

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
        last, before = self.head()
        standing = self.standing(model)
        if standing.last != after:
            raise LedgerMoved(model)
        at = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=last + 1)).isoformat(
            timespec="milliseconds"
        )
        rollout = last + 1 if action == "started" else rollout
        entry = sealed(Entry(last + 1, at, model, action, release, rollout, details, before))
        next_standing(standing, entry)
        self.entries.append(entry)
        return entry

    def history(self, model: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.model == model]

    def models(self) -> list[str]:
        return sorted({entry.model for entry in self.entries})

    def head(self) -> tuple[int, str]:
        return (self.entries[-1].sequence, self.entries[-1].digest) if self.entries else (0, NOTHING)

    def fault(self, head: str = NOTHING) -> str | None:
        return first_fault([(each.sequence, text_of(each), each.digest) for each in self.entries], head)

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self.lock:
            yield
