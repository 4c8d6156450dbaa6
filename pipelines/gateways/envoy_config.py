"""What Envoy is told once, when it starts: the listener, its limits, its log. Values in, values out."""

from pathlib import Path
from typing import Any

from pipelines.gateways import access_log
from pipelines.gateways.envoy_routes import IDLE_SECONDS, PREFIX, VERSION_PATH, address

FILE = "now.json"  # in a folder of its own each, or one change would be read as two
MAX_CONNECTIONS = 4096
MAX_HEADERS_KIB = 60
HEADERS_SECONDS, REQUEST_SECONDS = 10, 30  # to receive the headers, and the whole request
UNUSED_SECONDS = 300  # a client may keep an unused connection
PLAIN = {  # why Envoy itself turned a request away, by status
    401: "bring an API key that is known here, as x-api-key or as Authorization: Bearer",
    404: "no model answers at this path",
    408: f"the request did not arrive within {REQUEST_SECONDS} s",
    413: "the request is larger than this path takes",
    429: "more requests a second than this path takes, try again in a second",
    431: f"the headers are larger than {MAX_HEADERS_KIB} KiB",
    504: "the service did not answer in time",
}


def bootstrap(folder: Path, port: int) -> dict[str, Any]:
    """The listener on 127.0.0.1:`port`; clusters and routes come from files below `folder`."""
    connections = {
        "@type": _type("extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"),
        "max_active_downstream_connections": MAX_CONNECTIONS,
    }
    monitor = "envoy.resource_monitors.global_downstream_max_connections"
    return {
        "node": {"id": PREFIX, "cluster": PREFIX},
        "admin": {"address": address(0)},
        "dynamic_resources": {"cds_config": _watched(folder / "clusters")},
        "static_resources": {"listeners": [_listener(folder, port)]},
        "overload_manager": {"resource_monitors": [{"name": monitor, "typed_config": connections}]},
    }


def resources(version: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """One version of a watched file."""
    return {"version_info": version, "resources": found}


def _listener(folder: Path, port: int) -> dict[str, Any]:
    manager = {
        "@type": _type("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": PREFIX,
        "rds": {"route_config_name": PREFIX, "config_source": _watched(folder / "routes")},
        "http_filters": _filters(),
        "early_header_mutation_extensions": [_without("x-client-id")],
        "local_reply_config": _refusals(),
        "access_log": [access_log.configuration(folder / access_log.FOLDER / access_log.FILE, VERSION_PATH)],
        "use_remote_address": True,
        "preserve_external_request_id": True,  # the prediction log knows requests by what their clients do
        "normalize_path": True,
        "merge_slashes": True,
        "server_header_transformation": "PASS_THROUGH",
        "max_request_headers_kb": MAX_HEADERS_KIB,
        "request_headers_timeout": f"{HEADERS_SECONDS}s",
        "request_timeout": f"{REQUEST_SECONDS}s",
        "stream_idle_timeout": f"{IDLE_SECONDS}s",
        "common_http_protocol_options": {"idle_timeout": f"{UNUSED_SECONDS}s"},
    }
    return {
        "name": PREFIX,
        "address": address(port),
        "enable_reuse_port": False,  # else a second Envoy would share the port without a word
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _filters() -> list[dict[str, Any]]:
    """All but the last do nothing until the routes give them something to do."""
    idle = {
        "api_key_auth": {"@type": _type("extensions.filters.http.api_key_auth.v3.ApiKeyAuth")},
        "local_ratelimit": {
            "@type": _type("extensions.filters.http.local_ratelimit.v3.LocalRateLimit"),
            "stat_prefix": PREFIX,
        },
        "buffer": {"@type": _type("extensions.filters.http.buffer.v3.Buffer"), "max_request_bytes": 1},
    }
    last = {"@type": _type("extensions.filters.http.router.v3.Router"), "suppress_envoy_headers": True}
    return [
        *(
            {"name": f"envoy.filters.http.{name}", "disabled": True, "typed_config": settings}
            for name, settings in idle.items()
        ),
        {"name": "envoy.filters.http.router", "typed_config": last},
    ]


def _without(header: str) -> dict[str, Any]:
    """Nobody outside can say what only Envoy says."""
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": _type("extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"),
            "mutations": [{"remove": header}],
        },
    }


def _refusals() -> dict[str, Any]:
    """What Envoy answers by itself is said as the services say their errors."""
    plain = [_refusal("EQ", status, {"body": {"inline_string": why}}) for status, why in PLAIN.items()]
    return {"mappers": [*plain, _refusal("GE", 400, {})]}


def _refusal(op: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    value = {"default_value": status, "runtime_key": f"{PREFIX}.refusal"}
    retry = {"headers_to_add": [{"header": {"key": "retry-after", "value": "1"}}]} if status == 429 else {}
    return {
        "filter": {"status_code_filter": {"comparison": {"op": op, "value": value}}},
        "body_format_override": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
        **body,
        **retry,
    }


def _watched(folder: Path) -> dict[str, Any]:
    path = {"path": str(folder / FILE), "watched_directory": {"path": str(folder)}}
    return {"resource_api_version": "V3", "path_config_source": path}


def _type(name: str) -> str:
    return f"type.googleapis.com/envoy.{name}"
