"""What Envoy is told of the services and of how requests are shared out. Values in, values out.

A cluster is an arm: its service at priority 0, and at priority 1 the one that stands in while that is not
ready. Its name holds all that it is made of, so none is ever changed under the requests that it carries.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines.core.rollout.routes import Limits, Route, Target

PREFIX = "seatrial"  # of statistics, and the name of the route configuration
VERSION_PATH = "/-/routes"  # answers with the version of the routes that the worker thread goes by
WHOLE = 10_000  # of which a canary's weight is a part
UPSTREAM_IDLE_SECONDS = 3  # services close an unused connection after 5: Envoy has to be first
IDLE_SECONDS = 60  # at least, in which nothing at all of a request or its answer moves
RETRY_ON = "connect-failure,refused-stream,reset"  # a prediction asked for twice is the same prediction
OTHERS_RPS = 10**9  # of paths without a limit, which have to have one
RETRIES, FIRST_RETRY_SECONDS, RETRY_SECONDS = (
    20,
    0.1,
    1.0,
)  # together longer than a supervisor takes to restart

Resource = dict[str, Any]


def clusters(routes: Mapping[str, Route]) -> dict[str, Resource]:
    """By name, all that the routes need with any weight and mirror: a change of those alone adds none."""
    found = [cluster for route in routes.values() for cluster in _clusters(route)]
    return {cluster["name"]: cluster for cluster in found}


def configuration(version: str, routes: Mapping[str, Route], keys: Mapping[str, str]) -> Resource:
    """The paths, the longest first; the services do not see them. With `keys` (client to key), only those who
    bring one are let in."""
    told = {
        "match": {"path": VERSION_PATH},
        "direct_response": {"status": 200, "body": {"inline_string": version}},
        "typed_per_filter_config": {"envoy.filters.http.api_key_auth": _off()} if keys else {},
    }
    longest_first = sorted(routes, key=len, reverse=True)
    host = {
        "name": PREFIX,
        "domains": ["*"],
        "routes": [told, *(each for path in longest_first for each in _routes(path, routes[path]))],
        "typed_per_filter_config": {**_rates(routes), **_keys(keys)},
    }
    return {
        "@type": _type("config.route.v3.RouteConfiguration"),
        "name": PREFIX,
        "validate_clusters": True,
        "virtual_hosts": [host],
    }


def _clusters(route: Route) -> list[Resource]:
    arms = [_stable(replace(route, weight=weight)) for weight in (0.0, 1.0)]
    return [*arms, _canary(route), _shadow(route)] if route.canary else arms[:1]


def _stable(route: Route) -> Resource:
    return _cluster(
        "stable", route.limits, route.stable, route.standby or (route.canary if route.weight else None)
    )


def _canary(route: Route) -> Resource:
    return _cluster("canary", route.limits, route.canary or route.stable, route.stable)


def _shadow(route: Route) -> Resource:
    """Nobody stands in for a shadow, and none of its copies takes up room of the canary's own requests."""
    return _cluster("shadow", route.limits, route.canary or route.stable, None)


def _cluster(arm: str, limits: Limits, target: Target, stand_in: Target | None) -> Resource:
    hosts = [target] if stand_in is None else [target, stand_in]
    content = {
        "@type": _type("config.cluster.v3.Cluster"),
        "type": "STATIC",
        "connect_timeout": "1s",
        "metadata": {"filter_metadata": {PREFIX: {"arm": arm}}},
        "circuit_breakers": {"thresholds": [_thresholds(limits)]},
        "health_checks": [_health_check()],
        "outlier_detection": _outlier_detection(),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _type("extensions.upstreams.http.v3.HttpProtocolOptions"),
                "common_http_protocol_options": {"idle_timeout": f"{UPSTREAM_IDLE_SECONDS}s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }
    endpoints = [_endpoint(host, priority) for priority, host in enumerate(hosts)]
    digest = hashlib.sha256(json.dumps([content, endpoints]).encode()).hexdigest()[:8]
    name = f"{arm}:{'>'.join(f'{host.release_id}@{host.port}' for host in hosts)}:{digest}"
    return {**content, "name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


def _endpoint(target: Target, priority: int) -> Resource:
    host = {"endpoint": {"address": address(target.port)}}
    return {"priority": priority, "lb_endpoints": [host]}


def _thresholds(limits: Limits) -> Resource:
    """Connections have no limit of their own: a request beyond those of connections would wait, not fail."""
    return {
        "max_connections": 2 * limits.max_requests,
        "max_pending_requests": limits.max_requests,
        "max_requests": limits.max_requests,
        "max_retries": limits.max_requests,
    }


def _health_check() -> Resource:
    return {
        "timeout": "5s",
        "interval": "0.5s",
        "unhealthy_interval": "0.25s",
        "no_traffic_interval": "0.25s",
        "no_traffic_healthy_interval": "0.5s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/readyz"},
    }


def _outlier_detection() -> Resource:
    """A service that cannot be talked to is left out for a second, or until a health check succeeds; one that
    answers with an error is not. Where nobody stands in for it, it is asked all the same (Envoy's panic)."""
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "0.5s",
        "base_ejection_time": "1s",
        "max_ejection_time": "5s",
        "max_ejection_percent": 100,
    }


def _routes(path: str, route: Route) -> list[Resource]:
    """Whoever asks for an arm by x-release gets that; an arm that is not there is stable."""
    stable, shared = {"cluster": _stable(route)["name"]}, _shared(route)
    if route.canary is None:
        return _matching(path, route, stable)
    forced = {"canary": {"cluster": _canary(route)["name"]}, "stable": stable}
    named = [
        each for arm, to in forced.items() for each in _matching(path, route, to, _header("x-release", arm))
    ]
    return [*named, *_matching(path, route, shared)]


def _shared(route: Route) -> Resource:
    """The canary is first, so that a greater weight only adds users to it."""
    if route.canary is None:
        return {}
    canary = round(route.weight * WHOLE)
    shares = [
        {"name": _canary(route)["name"], "weight": canary},
        {"name": _stable(route)["name"], "weight": WHOLE - canary},
    ]
    salted = {"pattern": {"regex": "^"}, "substitution": route.salt.replace("\\", "\\\\")}
    mirror = {
        "cluster": _shadow(route)["name"],
        "runtime_fraction": {
            "default_value": {"numerator": round(route.mirrored * 1_000_000), "denominator": "MILLION"}
        },
        "disable_shadow_host_suffix_append": True,
    }
    return {
        "weighted_clusters": {"clusters": shares, "use_hash_policy": True},
        "hash_policy": [{"header": {"header_name": "x-user-id", "regex_rewrite": salted}}],
        "request_mirror_policies": [mirror] if route.mirrored else [],
    }


def _matching(path: str, route: Route, to: Resource, *headers: Resource) -> list[Resource]:
    action = {**_action(path, route.limits), **to}
    if path == "/":
        matches = [{"prefix": "/"}]
    else:
        matches, action = [{"path": path}, {"prefix": f"{path}/"}], {**action, "prefix_rewrite": "/"}
    per_filter = {"envoy.filters.http.buffer": _body_limit(route.limits)}
    return [
        {
            "name": route.label,
            "metadata": {"filter_metadata": {PREFIX: {"path": path}}},
            "match": {**match, "headers": headers},
            "route": action,
            "request_body_buffer_limit": route.limits.max_body_bytes,  # whatever is let in can be tried again
            "typed_per_filter_config": per_filter,
        }
        for match in matches
    ]


def _action(path: str, limits: Limits) -> Resource:
    previous = {"@type": _type("extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig")}
    return {
        "timeout": f"{limits.answer_seconds:.3f}s",
        "idle_timeout": f"{max(IDLE_SECONDS, limits.answer_seconds + 1):.3f}s",
        "retry_policy": {
            "retry_on": RETRY_ON,
            "num_retries": RETRIES,
            "retry_back_off": {
                "base_interval": f"{FIRST_RETRY_SECONDS}s",
                "max_interval": f"{RETRY_SECONDS}s",
            },
            "retry_priority": {
                "name": "envoy.retry_priorities.previous_priorities",
                "typed_config": {**previous, "update_frequency": 1},
            },
        },
    }


def _body_limit(limits: Limits) -> Resource:
    return {
        "@type": _type("extensions.filters.http.buffer.v3.BufferPerRoute"),
        "buffer": {"max_request_bytes": limits.max_body_bytes},
    }


def _rates(routes: Mapping[str, Route]) -> Resource:
    """A bucket a path holds a second's worth. It is full again after any change of the routes."""
    limits = {path: route.limits.max_rps for path, route in routes.items() if route.limits.max_rps}
    if not limits:
        return {}
    where = {"key": PREFIX, "path": [{"key": "path"}]}
    of_route = {"descriptor_key": "path", "metadata_key": where, "source": "ROUTE_ENTRY"}
    always = {"default_value": {"numerator": 100}}
    return {
        "envoy.filters.http.local_ratelimit": {
            "@type": _type("extensions.filters.http.local_ratelimit.v3.LocalRateLimit"),
            "stat_prefix": PREFIX,
            "filter_enabled": always,
            "filter_enforced": always,
            "token_bucket": _bucket(OTHERS_RPS),
            "always_consume_default_token_bucket": False,
            "rate_limits": [{"actions": [{"metadata": of_route}]}],
            "descriptors": [
                {"entries": [{"key": "path", "value": path}], "token_bucket": _bucket(max_rps)}
                for path, max_rps in limits.items()
            ],
        }
    }


def _bucket(max_rps: float) -> Resource:
    tokens = math.ceil(max_rps)
    return {"max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": f"{tokens / max_rps:.6f}s"}


def _keys(keys: Mapping[str, str]) -> Resource:
    if not keys:
        return {}
    return {
        "envoy.filters.http.api_key_auth": {
            "@type": _type("extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute"),
            "credentials": [{"client": client, "key": key} for client, key in keys.items()],
            "key_sources": [{"header": "x-api-key"}, {"header": "authorization"}],
            "forwarding": {"header": "x-client-id", "hide_credentials": True},
        }
    }


def _off() -> Resource:
    return {"@type": _type("config.route.v3.FilterConfig"), "disabled": True}


def _header(name: str, value: str) -> Resource:
    return {"name": name, "string_match": {"exact": value}}


def address(port: int) -> Resource:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _type(name: str) -> str:
    return f"type.googleapis.com/envoy.{name}"
