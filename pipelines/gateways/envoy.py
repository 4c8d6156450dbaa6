"""Envoy: the one address that clients know, and the services it routes to."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A service on 127.0.0.1 that answers for a release."""

    release_id: str
    port: int


class Router(ABC):
    """The data plane."""

    @abstractmethod
    def ensure(self) -> None:
        """Start the router with its last routes unless it runs. Raises PortTaken, ServiceFailed."""

    @abstractmethod
    def route(self, routes: Mapping[str, Target]) -> None:
        """Send each path prefix to its target, all at once, and return when the router confirmed it and the
        targets are healthy. Requests in flight to former targets go on undisturbed. Raises ServiceFailed."""

    @abstractmethod
    def routes(self) -> dict[str, Target]:
        """The routes last confirmed."""

    @abstractmethod
    def in_flight(self, target: Target) -> int:
        """Requests that the router is still waiting for from this target."""

    @property
    @abstractmethod
    def address(self) -> str:
        """E.g. http://127.0.0.1:8080."""
