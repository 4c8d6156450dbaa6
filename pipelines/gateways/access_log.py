"""What the router writes of every request: a JSON line each, in files that are put aside as they grow.

`requests.jsonl` is written to. One that was put aside is `requests.MILLISECONDS.jsonl`, by the time at which
it was; its last lines may still come for a moment after that. A line comes at most FLUSH_MS after its answer.
"""

from pathlib import Path
from typing import Any

from pipelines.core.home import Home

FOLDER, FILE = "access", "requests.jsonl"
FLUSH_MS = 200
MAX_VALUE = 256  # characters of what clients choose

# `at` is in seconds, as a text; what there is nothing of is null. `arm` (stable, canary) says what was meant
# to answer, `release` what did; a request that the router turned away has none, and `attempts` is 0.
# `model_path` is the route's, `path` is below it.
COLUMNS = {
    "at": "%START_TIME(%s.%6f)%",
    "route": "%ROUTE_NAME%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "arm": "%METADATA(CLUSTER:seatrial:arm)%",
    "release": f"%RESP(X-RELEASE-ID):{MAX_VALUE}%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "why": "%RESPONSE_CODE_DETAILS%",
    "us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "user": f"%REQ(X-USER-ID):{MAX_VALUE}%",
    "forced": f"%REQ(X-RELEASE):{MAX_VALUE}%",
    "client": f"%REQ(X-CLIENT-ID):{MAX_VALUE}%",
    "request_id": f"%REQ(X-REQUEST-ID):{MAX_VALUE}%",
    "method": "%REQ(:METHOD)%",
    "model_path": "%METADATA(ROUTE:seatrial:path)%",
    "path": f"%REQ(:PATH):{MAX_VALUE}%",
}


def file(home: Home, name: str = "envoy") -> Path:
    """What the router of that name writes to."""
    return home.serving.absolute() / name / FOLDER / FILE


def aside(file: Path) -> list[Path]:
    """What was put aside of `file`, oldest first."""
    return sorted(file.parent.glob(f"{file.stem}.*{file.suffix}"))


def put_aside(file: Path, at: float) -> None:
    """Rename `file`, as of `at` (epoch seconds); its writer has to be told to begin another one."""
    file.rename(file.with_name(f"{file.stem}.{int(at * 1000):013d}{file.suffix}"))


def forget(file: Path, keep_bytes: int) -> None:
    """Delete the oldest that were put aside, until the others have at most `keep_bytes`."""
    kept = 0
    for old in reversed(aside(file)):
        kept += old.stat().st_size
        if kept > keep_bytes:
            old.unlink()


def configuration(file: Path, unless_path: str) -> dict[str, Any]:
    """Envoy's access log, as https://www.envoyproxy.io/docs/envoy/v1.36.2/configuration/observability/access_log
    describes it: every request except those for `unless_path`."""
    own = {"name": ":path", "string_match": {"exact": unless_path}, "invert_match": True}
    return {
        "name": "envoy.access_loggers.file",
        "filter": {"header_filter": {"header": own}},
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(file),
            "log_format": {"json_format": COLUMNS},
        },
    }
