"""What an installation decides about the service, and the only reader of the service's environment. What a
release decides stands in its manifest.

SEATRIAL_GRPC_PORT                port of the gRPC server on the service's host; 0, the default: no gRPC
SEATRIAL_READ_SECONDS             s within which a whole request over HTTP must have arrived; default 30
SEATRIAL_REDIS_URL                redis://, rediss:// or unix:// of a prediction cache that workers share;
                                  default none: each process has its own
SEATRIAL_CAPTURE_FOLDER           where the prediction log goes; default none: no log
SEATRIAL_CAPTURE_MEGABYTES        MiB of rows, before compression, that fill a segment of it; default 16
SEATRIAL_CAPTURE_SECONDS          the most that a segment waits for more rows, in s; default 60
SEATRIAL_CAPTURE_TOTAL_MEGABYTES  MiB of segments kept, oldest removed first; default 1024
SEATRIAL_ACCESS_LOG               1: one line of log for each request; default 0
OTEL_EXPORTER_OTLP_ENDPOINT       http:// or https:// of an OpenTelemetry collector: requests are traced;
                                  default none. OTEL_EXPORTER_OTLP_TRACES_ENDPOINT does the same
OTEL_TRACES_EXPORTER              otlp: traced even without an endpoint, to the standard's default one; none:
                                  never. All other OTEL_ variables are read by OpenTelemetry itself
PROMETHEUS_MULTIPROC_DIR          the folder where workers share their counts; set by BentoML
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ON = {"1": True, "true": True, "yes": True, "on": True}
OFF = {"0": False, "false": False, "no": False, "off": False}


class SettingInvalid(ValueError):
    """A variable of the environment cannot be used. Its value is not repeated: it may hold a password."""

    def __init__(self, name: str, wanted: str) -> None:
        super().__init__(f"{name} must be {wanted}.")


@dataclass(frozen=True)
class Settings:
    """The variables above, in their order."""

    grpc_port: int = 0
    read_seconds: float = 30
    redis_url: str | None = None
    capture_folder: Path | None = None
    capture_segment_bytes: int = 16 * 2**20
    capture_segment_seconds: float = 60
    capture_total_bytes: int = 1024 * 2**20
    access_log: bool = False
    traces: bool = False
    metrics_folder: Path | None = None

    @classmethod
    def from_environment(cls, given: Mapping[str, str] = os.environ) -> "Settings":
        """Raises SettingInvalid for the first variable that cannot be used; empty is as good as not set."""
        return cls(
            grpc_port=_port(given, "SEATRIAL_GRPC_PORT"),
            read_seconds=_number(given, "SEATRIAL_READ_SECONDS", 30),
            redis_url=_url(given, "SEATRIAL_REDIS_URL", ("redis", "rediss", "unix")),
            capture_folder=_folder(given, "SEATRIAL_CAPTURE_FOLDER"),
            capture_segment_bytes=_bytes(given, "SEATRIAL_CAPTURE_MEGABYTES", 16),
            capture_segment_seconds=_number(given, "SEATRIAL_CAPTURE_SECONDS", 60),
            capture_total_bytes=_bytes(given, "SEATRIAL_CAPTURE_TOTAL_MEGABYTES", 1024),
            access_log=_switch(given, "SEATRIAL_ACCESS_LOG"),
            traces=_traces(given),
            metrics_folder=_folder(given, "PROMETHEUS_MULTIPROC_DIR"),
        )


def _port(given: Mapping[str, str], name: str) -> int:
    text = given.get(name) or "0"
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise SettingInvalid(name, "a port from 0 (off) to 65535")
    return int(text)


def _number(given: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(given.get(name) or default)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise SettingInvalid(name, "a number above 0")
    return value


def _bytes(given: Mapping[str, str], name: str, default_megabytes: float) -> int:
    return math.ceil(_number(given, name, default_megabytes) * 2**20)


def _switch(given: Mapping[str, str], name: str) -> bool:
    value = (ON | OFF).get((given.get(name) or "0").lower())
    if value is None:
        raise SettingInvalid(name, "1 or 0")
    return value


def _folder(given: Mapping[str, str], name: str) -> Path | None:
    return Path(given[name]) if given.get(name) else None


def _url(given: Mapping[str, str], name: str, schemes: tuple[str, ...]) -> str | None:
    if not (text := given.get(name)):
        return None
    try:
        parts = urlsplit(text)
        fits = parts.scheme in schemes and bool(parts.netloc or parts.path) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number, or a bracket left open
        fits = False
    if not fits:
        raise SettingInvalid(name, f"a URL that begins with {' or '.join(f'{s}://' for s in schemes)}")
    return text


def _traces(given: Mapping[str, str]) -> bool:
    endpoints = [
        _url(given, name, ("http", "https"))
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    ]
    exporter = (given.get("OTEL_TRACES_EXPORTER") or "").lower()
    if exporter not in ("", "otlp", "none"):
        raise SettingInvalid("OTEL_TRACES_EXPORTER", "otlp or none")
    return exporter == "otlp" or (exporter == "" and any(endpoints))
