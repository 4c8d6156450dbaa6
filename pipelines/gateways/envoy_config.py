"""What Envoy is told: its bootstrap, and the two resources that it watches. Values in, values out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "now.json"  # in a folder of its own each, or one change would be read as two
PREFIX = "seatrial"  # of statistics, and the name of the route configuration
VERSION_PATH = "/-/routes"  # answers with the version of the routes that the worker thread goes by
MAX_CONNECTIONS = 4096
MAX_HEADERS_KIB = 60
HEADERS_SECONDS, REQUEST_SECONDS = 10, 30  # to receive the headers, and the whole request
RESPONSE_SECONDS = 60  # a service has to answer within
IDLE_SECONDS = 300  # a client may keep an unused connection
UPSTREAM_IDLE_SECONDS = 3  # services close an unused connection after 5: Envoy has to be first
RETRY_ON = "connect-failure,refused-stream,reset-before-request"


def bootstrap(folder: Path, port: int) -> dict[str, Any]:
    """The listener on 127.0.0.1:`port`; clusters and routes come from files below `folder`."""
    connections = {
        "@type": _type("extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"),
        "max_active_downstream_connections": MAX_CONNECTIONS,
    }
    monitor = "envoy.resource_monitors.global_downstream_max_connections"
    return {
        "node": {"id": PREFIX, "cluster": PREFIX},
        "admin": {"address": _address(0)},
        "dynamic_resources": {"cds_config": _watched(folder / "clusters")},
        "static_resources": {"listeners": [_listener(folder, port)]},
        "overload_manager": {"resource_monitors": [{"name": monitor, "typed_config": connections}]},
    }


def resources(version: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """One version of a watched file."""
    return {"version_info": version, "resources": found}


def cluster(name: str, port: int) -> dict[str, Any]:
    """A service on 127.0.0.1:`port` that is asked four times a second whether it is ready."""
    host = {"endpoint": {"address": _address(port)}}
    return {
        "@type": _type("config.cluster.v3.Cluster"),
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [host]}]},
        "circuit_breakers": {"thresholds": [{"max_retries": MAX_CONNECTIONS}]},
        "health_checks": [
            {
                "timeout": "5s",
                "interval": "1s",
                "unhealthy_interval": "0.25s",
                "no_traffic_interval": "0.25s",
                "no_traffic_healthy_interval": "1s",
                "unhealthy_threshold": 3,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/readyz"},
            }
        ],
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _type("extensions.upstreams.http.v3.HttpProtocolOptions"),
                "common_http_protocol_options": {"idle_timeout": f"{UPSTREAM_IDLE_SECONDS}s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def route_configuration(version: str, clusters: Mapping[str, str]) -> dict[str, Any]:
    """Path prefixes to the names of clusters, the longest first; the services do not see the prefix."""
    told = {
        "match": {"path": VERSION_PATH},
        "direct_response": {"status": 200, "body": {"inline_string": version}},
    }
    longest_first = sorted(clusters, key=len, reverse=True)
    routes = [route for path in longest_first for route in _routes(path, clusters[path])]
    return {
        "@type": _type("config.route.v3.RouteConfiguration"),
        "name": PREFIX,
        "validate_clusters": True,
        "virtual_hosts": [{"name": PREFIX, "domains": ["*"], "routes": [told, *routes]}],
    }


def _routes(path: str, cluster: str) -> list[dict[str, Any]]:
    retry = {"retry_on": RETRY_ON, "num_retries": 3}
    action = {"cluster": cluster, "timeout": f"{RESPONSE_SECONDS}s", "retry_policy": retry}
    if path == "/":
        return [{"match": {"prefix": "/"}, "route": action}]
    stripped = {**action, "prefix_rewrite": "/"}
    return [{"match": match, "route": stripped} for match in ({"path": path}, {"prefix": f"{path}/"})]


def _listener(folder: Path, port: int) -> dict[str, Any]:
    manager = {
        "@type": _type("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": PREFIX,
        "rds": {"route_config_name": PREFIX, "config_source": _watched(folder / "routes")},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": _type("extensions.filters.http.router.v3.Router"),
                    "suppress_envoy_headers": True,
                },
            }
        ],
        "access_log": [_access_log()],
        "use_remote_address": True,
        "preserve_external_request_id": True,  # the prediction log knows requests by what their clients do
        "normalize_path": True,
        "merge_slashes": True,
        "server_header_transformation": "PASS_THROUGH",
        "max_request_headers_kb": MAX_HEADERS_KIB,
        "request_headers_timeout": f"{HEADERS_SECONDS}s",
        "request_timeout": f"{REQUEST_SECONDS}s",
        "stream_idle_timeout": f"{RESPONSE_SECONDS}s",
        "common_http_protocol_options": {"idle_timeout": f"{IDLE_SECONDS}s"},
    }
    return {
        "name": PREFIX,
        "address": _address(port),
        "enable_reuse_port": False,  # else a second Envoy would share the port without a word
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _access_log() -> dict[str, Any]:
    """One JSON line for each answer that was not a success, in the log of the process."""
    columns = {
        "at": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(:PATH)%",
        "status": "%RESPONSE_CODE%",
        "why": "%RESPONSE_CODE_DETAILS%",
        "duration_ms": "%DURATION%",
        "cluster": "%UPSTREAM_CLUSTER%",
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    failed = {"op": "GE", "value": {"default_value": 300, "runtime_key": "access_log.min_status"}}
    return {
        "name": "envoy.access_loggers.stdout",
        "filter": {"status_code_filter": {"comparison": failed}},
        "typed_config": {
            "@type": _type("extensions.access_loggers.stream.v3.StdoutAccessLog"),
            "log_format": {"json_format": columns},
        },
    }


def _watched(folder: Path) -> dict[str, Any]:
    path = {"path": str(folder / FILE), "watched_directory": {"path": str(folder)}}
    return {"resource_api_version": "V3", "path_config_source": path}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _type(name: str) -> str:
    return f"type.googleapis.com/envoy.{name}"
