"""Envoy: the one address that clients know, and the services it routes to.

Envoy watches two files, the clusters (CDS) and the routes (RDS), each replaced in one step. A change of
routes adds the new clusters, waits until they are healthy, switches, and lets go of the old ones when they
are idle, so no request ever meets a service that is not there. A change of weights alone only switches.
"""

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipelines.core.errors import ServiceFailed
from pipelines.core.home import Home
from pipelines.core.rollout.routes import Route, Target
from pipelines.gateways import access_log, envoy_config, envoy_guards, envoy_start
from pipelines.gateways.envoy_admin import Admin, Host
from pipelines.gateways.envoy_clusters import clusters
from pipelines.gateways.envoy_files import Files, write_private
from pipelines.gateways.envoy_types import Resource
from pipelines.gateways.processes import Command, Processes
from pipelines.gateways.router import Router


class Envoy(Router):
    """Envoy on 127.0.0.1, supervised as `name`. It has one worker thread, so once that answers with the new
    version of the routes, no request goes by the old ones. It takes milliseconds to answer; `answer_seconds`
    is also how long a new service may take to be found healthy. `keys` (client to key) are asked for where
    there are any; `ensure` applies them, and raises SettingsInvalid where they are unclear. None: those that
    were applied last."""

    def __init__(
        self,
        home: Home,
        processes: Processes,
        port: int = 8080,
        answer_seconds: float = 10,
        name: str = "envoy",
        keys: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.keys, self.answer_seconds = name, keys, answer_seconds
        self.folder, self.processes, self.port = home.serving.absolute() / name, processes, port
        self.access_log = access_log.file(home, name)
        self.admin = Admin(name, self.folder / "admin", port, processes.log(name))
        self.files = Files(self.folder, self.admin, self._until)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ensure(self) -> None:
        keys = self._state()["keys"] if self.keys is None else self.keys
        envoy_guards.refuse_unclear(keys)
        bootstrap = json.dumps(envoy_config.bootstrap(self.folder, self.port), indent=2)
        with self._lock():
            if not (self._runs() and self._bootstrap.exists() and self._bootstrap.read_text() == bootstrap):
                self._start(bootstrap, keys)
            self._until(self._is_ready, "did not become ready")
            self._change({}, keys)

    def route(self, changes: Mapping[str, Route | None]) -> None:
        with self._lock():
            self.admin.ready()
            self._change(changes, self._state()["keys"])

    def routes(self) -> dict[str, Route]:
        return {path: Route.from_dict(route) for path, route in self._state()["routes"].items()}

    def healthy(self, target: Target) -> bool:
        found = [host for host in self._hosts() if host.port == target.port]
        return bool(found) and all(host.healthy for host in found)

    def in_flight(self, target: Target) -> int:
        with suppress(ServiceFailed):
            return sum(host.waiting for host in self._hosts() if host.port == target.port)
        return 0  # an Envoy that is not there waits for nothing

    def rotate(self, max_bytes: int, keep_bytes: int) -> None:
        with self._lock():
            if self.access_log.exists() and self.access_log.stat().st_size > max_bytes:
                access_log.put_aside(self.access_log, time.time())
                self.admin.reopen_logs()
            access_log.forget(self.access_log, keep_bytes)

    @property
    def _confirmed(self) -> Path:
        return self.folder / "state.json"

    @property
    def _bootstrap(self) -> Path:
        return self.folder / "bootstrap.json"

    def _state(self) -> dict[str, Any]:
        """The routes and keys that Envoy goes by."""
        return (
            json.loads(self._confirmed.read_text())
            if self._confirmed.exists()
            else {"routes": {}, "keys": {}}
        )

    def _start(self, bootstrap: str, keys: Mapping[str, str]) -> None:
        """In the place of the one that runs, unless there is something wrong with it."""
        if not self._has_port():
            envoy_start.refuse_taken(self.port)
        if not self._runs():
            self._write_watched(keys)
        self.access_log.parent.mkdir(parents=True, exist_ok=True)
        tried = self.folder / "tried.json"
        write_private(tried, bootstrap)
        envoy_start.refuse_wrong(self.name, tried)
        self.processes.stop(self.name)
        self._write_watched(keys)
        tried.replace(self._bootstrap)
        self.admin.address_file.unlink(missing_ok=True)
        admin = ("--admin-address-path", str(self.admin.address_file))
        self.processes.start(self.name, Command((*envoy_start.command(self._bootstrap), *admin)))

    def _write_watched(self, keys: Mapping[str, str]) -> None:
        self.files.write_clusters(clusters(self.routes()))
        self.files.write_routes(self.routes(), keys)

    def _has_port(self) -> bool:
        if not (self._runs() and self._bootstrap.exists()):
            return False
        return envoy_config.port(json.loads(self._bootstrap.read_text())) == self.port

    def _runs(self) -> bool:
        return self.processes.states().get(self.name) in ("STARTING", "RUNNING")

    def _is_ready(self) -> bool:
        if not self._runs():
            raise self.admin.failure("ended before it was ready")
        with suppress(ServiceFailed):
            return self.admin.ready()
        return False

    def _change(self, changes: Mapping[str, Route | None], keys: Mapping[str, str]) -> None:
        before = self.routes()
        routes = {path: route for path, route in {**before, **changes}.items() if route}
        wanted, new = clusters(routes), _targets(routes) - _targets(before)
        with self.files.put_back_on_failure():
            self.files.apply_clusters({**self.files.clusters(), **wanted})
            self._until(lambda: self._usable(set(wanted), new), f"did not find all healthy of {_names(new)}")
            self.files.apply_routes(routes, keys)
            state = {"routes": {path: to.to_dict() for path, to in routes.items()}, "keys": dict(keys)}
            write_private(self._confirmed, json.dumps(state, indent=2))
        with suppress(ServiceFailed):  # what is left over goes with the next change
            self._tidy(wanted)

    def _usable(self, names: set[str], new: set[Target]) -> bool:
        """Whether all clusters are past their first health checks and the new targets passed theirs."""
        return names <= set(self.admin.hosts()) and all(self.healthy(target) for target in new)

    def _tidy(self, wanted: Mapping[str, Resource]) -> None:
        """Forget the clusters that nobody waits for any more."""
        known = self.files.clusters()
        if known.keys() != wanted.keys():
            busy = {name: known[name] for name in self.admin.busy() & known.keys()}
            self.files.apply_clusters({**wanted, **busy})

    def _hosts(self) -> Iterator[Host]:
        return (host for hosts in self.admin.hosts().values() for host in hosts)

    def _until(self, done: Callable[[], bool], failure: str) -> None:
        deadline = time.monotonic() + self.answer_seconds
        while not done():
            if time.monotonic() > deadline:
                raise self.admin.failure(f"{failure} within {self.answer_seconds:g} s")
            time.sleep(0.002)  # Envoy takes up changes by itself and tells nobody

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One program at a time changes what Envoy goes by."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _targets(routes: Mapping[str, Route]) -> set[Target]:
    return {target for route in routes.values() for target in route.targets}


def _names(targets: set[Target]) -> str:
    return ", ".join(sorted(f"{target.release_id}@{target.port}" for target in targets))
