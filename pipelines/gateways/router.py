"""The data plane as everything else knows it: the one address of clients, and which releases answer there."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from pipelines.core.rollout.routes import Route, Target


class Router(ABC):
    """The data plane."""

    @abstractmethod
    def ensure(self) -> None:
        """Start the router with its last routes unless it runs. Raises PortTaken, ServiceFailed."""

    @abstractmethod
    def route(self, changes: Mapping[str, Route | None]) -> None:
        """Route these paths so, all at once, and those with None no more; others stay as they are. Returns
        when the router confirmed it and new targets are healthy. Requests in flight to former targets go on
        undisturbed. Raises ServiceFailed, and all is as it was."""

    @abstractmethod
    def routes(self) -> dict[str, Route]:
        """The routes last confirmed."""

    @abstractmethod
    def healthy(self, target: Target) -> bool:
        """Whether the router would send requests to this target. Raises ServiceFailed where it is gone."""

    @abstractmethod
    def in_flight(self, target: Target) -> int:
        """Requests that the router is still waiting for from this target, mirrored ones included."""

    @abstractmethod
    def rotate(self, max_bytes: int, keep_bytes: int) -> None:
        """Put the access log aside if it is larger than `max_bytes`, and keep at most `keep_bytes` of what
        was put aside. Raises ServiceFailed."""

    @property
    @abstractmethod
    def address(self) -> str:
        """E.g. http://127.0.0.1:8080."""
