"""The two files that Envoy watches, clusters and routes: replaced in one step, then confirmed or put back.

A version is a digest of what it holds, so the same again is not applied again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.core.errors import ServiceFailed
from pipelines.core.rollout.routes import Route
from pipelines.gateways import envoy_routes
from pipelines.gateways.envoy_admin import Admin, Kind
from pipelines.gateways.envoy_config import FILE
from pipelines.gateways.envoy_types import Resource
from pipelines.gateways.tables import replacing

Until = Callable[[Callable[[], bool], str], None]
"""Wait until something is so; otherwise raise ServiceFailed with this reason."""


class Files:
    def __init__(self, folder: Path, admin: Admin, until: Until) -> None:
        self._admin, self._until = admin, until
        self.paths: dict[Kind, Path] = {
            "clusters": folder / "clusters" / FILE,
            "routes": folder / "routes" / FILE,
        }

    def clusters(self) -> dict[str, Resource]:
        """Every cluster that Envoy has been told of, those that only finish their requests included."""
        found = json.loads(self.paths["clusters"].read_text())["resources"]
        return {cluster["name"]: cluster for cluster in found}

    def version(self, kind: Kind) -> str:
        """That Envoy was told last."""
        return json.loads(self.paths[kind].read_text())["version_info"]

    def write_clusters(self, clusters: Mapping[str, Resource]) -> str:
        """Returns the version."""
        found = [clusters[name] for name in sorted(clusters)]
        return self._write("clusters", _version(found), found)

    def write_routes(self, routes: Mapping[str, Route], keys: Mapping[str, str]) -> str:
        """Returns the version."""
        version = _version(envoy_routes.configuration("", routes, keys))
        return self._write("routes", version, [envoy_routes.configuration(version, routes, keys)])

    def apply_clusters(self, clusters: Mapping[str, Resource]) -> None:
        """Raises ServiceFailed."""
        if clusters.keys() != self.clusters().keys():
            self._apply("clusters", lambda: self.write_clusters(clusters))

    def apply_routes(self, routes: Mapping[str, Route], keys: Mapping[str, str]) -> None:
        """Returns when requests go by them. Raises ServiceFailed."""
        version = _version(envoy_routes.configuration("", routes, keys))
        if version != self.version("routes"):
            self._apply("routes", lambda: self.write_routes(routes, keys))
        self._until(lambda: self._admin.version_served() == version, "did not switch to the new routes")

    @contextmanager
    def put_back_on_failure(self) -> Iterator[None]:
        before = {path: path.read_text() for path in self.paths.values()}
        try:
            yield
        except BaseException:
            for path, text in before.items():
                if path.read_text() != text:
                    write_private(path, text)
            version = self.version("routes")
            with suppress(ServiceFailed):  # an Envoy that is gone will start with these files
                self._until(lambda: self._admin.version_served() == version, "did not go back")
            raise

    def _apply(self, kind: Kind, write: Callable[[], str]) -> None:
        before, log_bytes = self._admin.outcome(kind), self._admin.log_bytes()
        version = write()

        def taken() -> bool:
            now = self._admin.outcome(kind)
            if now.refused > before.refused:
                raise self._admin.failure(f"refused the {kind}: {self._admin.why_refused(log_bytes)}")
            return now.version == version

        self._until(taken, f"did not confirm the {kind}")

    def _write(self, kind: Kind, version: str, found: list[Resource]) -> str:
        content = {"version_info": version, "resources": found}
        write_private(self.paths[kind], json.dumps(content, indent=2))
        return version


def write_private(path: Path, text: str) -> None:
    """For this user alone: there are keys in some of them."""
    with replacing(path) as temp:
        temp.touch(mode=0o600)
        temp.write_text(text)


def _version(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
