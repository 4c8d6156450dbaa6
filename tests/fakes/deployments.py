"""Deployments without processes: what is staged has the URL fake://TAG, what takes over is only recorded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from pipelines.core.capacity.readings import Usage
from pipelines.gateways.deployments import Deployments, Release, Staged
from pipelines.gateways.ledger import Action, Ledger


class FakeDeployments(Deployments):
    """`staged` lists the tags that were staged, `routes` says which release answers at which path."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.staged: list[str] = []
        self.routes: dict[str, str] = {}

    @contextmanager
    def stage(self, name: str, tag: str) -> Iterator[Staged]:
        self.staged.append(tag)
        yield Staged(f"fake://{tag}", lambda: Usage(0.0, 0, 0))

    def take_over(self, release: Release, action: Action = "deployed") -> None:
        fields = {name: value for name, value in asdict(release).items() if name != "model"}
        self.ledger.record(release.model, action, {**fields, "port": 0})
        self.routes[release.path] = release.release_id

    def status(self, model: str) -> dict[str, Any]:
        entry = self.ledger.production(model)
        serves = entry is not None and self.routes.get(entry.path) == entry.release_id
        return {
            "release_id": entry.release_id if entry else None,
            "address": f"http://127.0.0.1:8080{entry.path}" if entry else None,
            "path": entry.path if entry else None,
            "state": "RUNNING" if serves else "STOPPED",
            "ready": serves,
        }
