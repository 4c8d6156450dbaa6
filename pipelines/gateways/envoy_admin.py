"""What Envoy says: whether it is ready, how its services are, and which version of its files it goes by."""

import http.client
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.core.errors import ServiceFailed
from pipelines.gateways.envoy_clusters import MAX_RETRIES
from pipelines.gateways.envoy_types import PREFIX, VERSION_PATH

Kind = Literal["clusters", "routes"]
RETRIES_LEFT = ".circuit_breakers.default.remaining_retries"
STATISTICS: dict[Kind, str] = {"clusters": "cluster_manager.cds", "routes": f"http.{PREFIX}.rds.{PREFIX}"}


@dataclass(frozen=True)
class Host:
    """A service as Envoy sees it in one cluster. `waiting` counts requests that it has not answered yet."""

    port: int
    healthy: bool
    waiting: int


@dataclass(frozen=True)
class Outcome:
    """What became of a watched file: the version that Envoy took last, and how many it has refused."""

    version: str
    refused: int


@dataclass(frozen=True)
class Admin:
    """The administration interface of the Envoy `name`, at the address that it wrote to `address_file`. Each
    method raises ServiceFailed when Envoy does not answer."""

    name: str
    address_file: Path
    port: int
    log: Path

    def ready(self) -> bool:
        return self._ask("/ready").strip() == "LIVE"

    def hosts(self) -> dict[str, tuple[Host, ...]]:
        """By name of the cluster, of those that can be used."""
        clusters = json.loads(self._ask("/clusters?format=json")).get("cluster_statuses", [])
        return {each["name"]: tuple(_host(host) for host in each["host_statuses"]) for each in clusters}

    def busy(self) -> set[str]:
        """The clusters whose answers somebody waits for, or that somebody waits to ask again."""
        waiting = {name for name, hosts in self.hosts().items() if any(host.waiting for host in hosts)}
        left = dict(line.rsplit(": ", 1) for line in self._ask(f"/stats?filter={RETRIES_LEFT}").splitlines())
        retrying = {name for name, count in left.items() if int(count) < MAX_RETRIES}
        names = {name: f"cluster.{name.replace(':', '_')}{RETRIES_LEFT}" for name in self.hosts()}
        return waiting | {name for name, counted in names.items() if counted in retrying}

    def outcome(self, kind: Kind) -> Outcome:
        prefix = STATISTICS[kind]
        lines = self._ask(f"/stats?filter={prefix}").splitlines()
        found = dict(line.removeprefix(f"{prefix}.").split(": ", 1) for line in lines)
        refused = int(found["update_rejected"]) + int(found["update_failure"])
        return Outcome(found["version_text"].strip('"'), refused)

    def log_bytes(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def failure(self, reason: str) -> ServiceFailed:
        return ServiceFailed(self.name, reason, self.log)

    def why_refused(self, log_bytes: int) -> str:
        """What Envoy complained about after its log had `log_bytes`. It says so nowhere but there, and its
        output may take a moment to arrive."""
        for _ in range(100):
            said = self.log.read_bytes()[log_bytes:].decode(errors="replace").rpartition("rejected: ")[2]
            if said.endswith("\n"):
                return " ".join(said.split())[-300:]
            time.sleep(0.01)  # the reason comes by the log, a little after the count
        return "for a reason that it did not log"

    def reopen_logs(self) -> None:
        """Soon after, what Envoy logs goes to new files at the same paths."""
        self._ask("/reopen_logs", "POST")

    def version_served(self) -> str:
        """The version of the routes that requests go by at this moment."""
        return self._get(f"127.0.0.1:{self.port}", VERSION_PATH)

    def _ask(self, path: str, method: str = "GET") -> str:
        address = self.address_file.read_text() if self.address_file.exists() else ""
        return self._get(address, path, method)

    def _get(self, address: str, path: str, method: str = "GET") -> str:
        connection = http.client.HTTPConnection(address, timeout=5)
        try:
            connection.request(method, path)
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise self.failure(f"does not answer ({error})") from error
        finally:
            connection.close()


def _host(status: dict) -> Host:
    """Envoy leaves out what is zero, and names each failed check beside eds_health_status."""
    statistics = {each["name"]: int(each.get("value", 0)) for each in status["stats"]}
    healthy = status["health_status"] == {"eds_health_status": "HEALTHY"}
    port = status["address"]["socket_address"]["port_value"]
    return Host(port, healthy, statistics["rq_active"] + statistics["rq_pending_active"])
