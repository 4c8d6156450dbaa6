"""A router that only remembers: there is no proxy, `address` is that of stable at the shortest path."""

from collections.abc import Mapping
from urllib.error import URLError
from urllib.request import urlopen

from pipelines.core.errors import ServiceFailed
from pipelines.core.rollout.routes import Route, Target
from pipelines.gateways.router import Router


class FakeRouter(Router):
    """`waiting` is what a test says about requests in flight, `gone` whether the router does not answer."""

    def __init__(self) -> None:
        self.confirmed: dict[str, Route] = {}
        self.waiting: dict[Target, int] = {}
        self.gone = False

    def ensure(self) -> None:
        self.gone = False

    def route(self, changes: Mapping[str, Route | None]) -> None:
        self._refuse_if_gone()
        routes = {path: route for path, route in {**self.confirmed, **changes}.items() if route}
        for target in _targets(routes) - _targets(self.confirmed):
            if not self.healthy(target):
                raise ServiceFailed("router", f"did not find {target} healthy", "none")
        self.confirmed = routes

    def routes(self) -> dict[str, Route]:
        return dict(self.confirmed)

    def healthy(self, target: Target) -> bool:
        self._refuse_if_gone()
        try:
            urlopen(f"http://127.0.0.1:{target.port}/readyz", timeout=5).close()
        except (URLError, ConnectionError):
            return False
        return True

    def in_flight(self, target: Target) -> int:
        return self.waiting.get(target, 0)

    def rotate(self, max_bytes: int, keep_bytes: int) -> None:
        self._refuse_if_gone()

    @property
    def address(self) -> str:
        if not self.confirmed:
            return "http://127.0.0.1:8080"
        return f"http://127.0.0.1:{self.confirmed[min(self.confirmed, key=len)].stable.port}"

    def _refuse_if_gone(self) -> None:
        if self.gone:
            raise ServiceFailed("router", "does not answer", "none")


def _targets(routes: Mapping[str, Route]) -> set[Target]:
    return {target for route in routes.values() for target in route.targets}
