"""What Envoy is told once, when it starts: the listener, its limits, its log. Values in, values out."""

from pathlib import Path

from pipelines.gateways import access_log, envoy_guards
from pipelines.gateways.envoy_routes import IDLE_SECONDS
from pipelines.gateways.envoy_types import PREFIX, VERSION_PATH, Resource, address, typed

FILE = "now.json"  # in a folder of its own each, or one change would be read as two
MAX_CONNECTIONS = 4096
MAX_HEADERS_KIB = 60
HEADERS_SECONDS, REQUEST_SECONDS = 10, 30  # to receive the headers, and the whole request
UNUSED_SECONDS = 300  # a client may keep an unused connection


def bootstrap(folder: Path, port: int) -> Resource:
    """The listener on 127.0.0.1:`port`; clusters and routes come from files below `folder`."""
    monitor = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": typed(
            "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            max_active_downstream_connections=MAX_CONNECTIONS,
        ),
    }
    return {
        "node": {"id": PREFIX, "cluster": PREFIX},
        "admin": {"address": address(0)},
        "dynamic_resources": {"cds_config": _watched(folder / "clusters")},
        "static_resources": {"listeners": [_listener(folder, port)]},
        "overload_manager": {"resource_monitors": [monitor]},
    }


def port(bootstrap: Resource) -> int:
    """The one that it listens at."""
    return bootstrap["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"]


def _listener(folder: Path, port: int) -> Resource:
    name = "envoy.filters.network.http_connection_manager"
    return {
        "name": PREFIX,
        "address": address(port),
        "enable_reuse_port": False,  # else a second Envoy would share the port without a word
        "filter_chains": [{"filters": [{"name": name, "typed_config": _manager(folder)}]}],
    }


def _manager(folder: Path) -> Resource:
    return typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=PREFIX,
        rds={"route_config_name": PREFIX, "config_source": _watched(folder / "routes")},
        http_filters=envoy_guards.filters(),
        local_reply_config=envoy_guards.refusals(),
        early_header_mutation_extensions=[_without("x-client-id")],
        access_log=[access_log.configuration(folder / access_log.FOLDER / access_log.FILE, VERSION_PATH)],
        use_remote_address=True,
        preserve_external_request_id=True,  # the prediction log knows requests by what their clients do
        normalize_path=True,
        merge_slashes=True,
        server_header_transformation="PASS_THROUGH",
        max_request_headers_kb=MAX_HEADERS_KIB,
        request_headers_timeout=f"{HEADERS_SECONDS}s",
        request_timeout=f"{REQUEST_SECONDS}s",
        stream_idle_timeout=f"{IDLE_SECONDS}s",
        common_http_protocol_options={"idle_timeout": f"{UNUSED_SECONDS}s"},
    )


def _without(header: str) -> Resource:
    """Nobody outside can say what only Envoy says."""
    mutation = "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": typed(mutation, mutations=[{"remove": header}]),
    }


def _watched(folder: Path) -> Resource:
    path = {"path": str(folder / FILE), "watched_directory": {"path": str(folder)}}
    return {"resource_api_version": "V3", "path_config_source": path}
