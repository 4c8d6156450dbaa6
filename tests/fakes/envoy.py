"""A router that only remembers: `address` is that of the service at the shortest path, there is no proxy."""

from collections.abc import Mapping
from urllib.error import URLError
from urllib.request import urlopen

from pipelines.core.errors import ServiceFailed
from pipelines.gateways.envoy import Router, Target


class FakeRouter(Router):
    """`waiting` is what a test says about requests in flight."""

    def __init__(self) -> None:
        self.confirmed: dict[str, Target] = {}
        self.waiting: dict[Target, int] = {}

    def ensure(self) -> None:
        pass

    def route(self, routes: Mapping[str, Target]) -> None:
        for target in set(routes.values()) - set(self.confirmed.values()):
            try:
                urlopen(f"http://127.0.0.1:{target.port}/readyz", timeout=5).close()
            except URLError as error:
                raise ServiceFailed("router", f"did not find {target} healthy: {error}", "none") from error
        self.confirmed = dict(routes)

    def routes(self) -> dict[str, Target]:
        return dict(self.confirmed)

    def in_flight(self, target: Target) -> int:
        return self.waiting.get(target, 0)

    @property
    def address(self) -> str:
        if not self.confirmed:
            return "http://127.0.0.1:8080"
        return f"http://127.0.0.1:{self.confirmed[min(self.confirmed, key=len)].port}"
