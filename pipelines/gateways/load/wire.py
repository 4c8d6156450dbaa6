"""What sending knows of a protocol."""

from abc import ABC, abstractmethod
from typing import Protocol

NO_ANSWER = 0
"""The status of a request that nobody answered."""


class Listener(Protocol):
    """Who is told what became of requests. A request is known by its turn: how many were sent before it."""

    def started(self, turn: int) -> None:
        """It is on its way: a connection has taken it."""

    def ended(self, turn: int, status: int) -> None:
        """Its answer has come, or will not come."""

    def refused(self) -> None:
        """A connection could not be opened."""

    def broken(self, error: Exception) -> None:
        """The generator itself can't go on."""


class Wire(ABC):
    """Sends bodies in turn. `said` is the text of the first answer that was an error."""

    listener: Listener
    said: str = ""

    @abstractmethod
    async def open(self) -> None:
        """Reach the target. Raises ServiceFailed where nothing listens there."""

    @abstractmethod
    def send(self, turn: int) -> None:
        """Send a request; the listener is told how it ends."""

    @abstractmethod
    def drop(self, turn: int) -> None:
        """Nobody waits for its answer any more, and the listener is not told of it."""

    @abstractmethod
    def cpu_seconds(self) -> float:
        """The CPU time that the generator has taken so far."""

    @abstractmethod
    async def close(self) -> None:
        """Leave nothing open."""
