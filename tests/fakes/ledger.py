"""A ledger in memory; its clock advances a second with each entry."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.gateways.ledger import Action, Entry, Ledger


class FakeLedger(Ledger):
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.lock = threading.Lock()

    def record(self, model: str, action: Action, release: Mapping[str, Any]) -> Entry:
        sequence = len(self.entries) + 1
        at = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=sequence)).isoformat()
        self.entries.append(Entry(sequence=sequence, at=at, model=model, action=action, **release))
        return self.entries[-1]

    def history(self, model: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.model == model]

    def models(self) -> list[str]:
        return sorted({entry.model for entry in self.entries})

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self.lock:
            yield
