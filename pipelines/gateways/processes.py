"""Supervised processes: started once, restarted when they die, stopped for good on request."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """What to run: `argv` with `env` added to a clean environment (PATH and HOME only)."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


class Processes(ABC):
    """A process supervisor that outlives the program which started it."""

    @abstractmethod
    def start(self, name: str, command: Command) -> None:
        """Run `command` as `name` and keep it running. The same name again replaces it."""

    @abstractmethod
    def stop(self, name: str) -> None:
        """End `name` with SIGTERM (SIGKILL after a grace period) and forget it. Unknown names are fine."""

    @abstractmethod
    def states(self) -> dict[str, str]:
        """The state of each process, e.g. {"envoy": "RUNNING"}; empty when no supervisor runs."""

    @abstractmethod
    def log(self, name: str) -> Path:
        """Where the output of `name` goes."""

    @abstractmethod
    def shutdown(self) -> None:
        """End every process and the supervisor itself, and return when they are gone."""
