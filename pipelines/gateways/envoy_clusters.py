"""What Envoy is told of the services. Values in, values out.

A cluster is an arm: its service at priority 0, and at priority 1 the one that stands in while that is not
ready. Its name holds all that it is made of, so none is ever changed under the requests that it carries:
ARM:RELEASE_ID@PORT[>RELEASE_ID@PORT]:DIGEST.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace

from pipelines.core.rollout.routes import Limits, Route, Target
from pipelines.gateways.envoy_types import PREFIX, Resource, address, typed

UPSTREAM_IDLE_SECONDS = 3  # services close an unused connection after 5: Envoy has to be first
MAX_RETRIES = 4096  # at once: all that arrives while a service is restarted waits for its next try


def clusters(routes: Mapping[str, Route]) -> dict[str, Resource]:
    """By name, all that the routes need with any weight and mirror: a change of those alone adds none."""
    found = [cluster for route in routes.values() for cluster in _clusters(route)]
    return {cluster["name"]: cluster for cluster in found}


def stable(route: Route) -> Resource:
    stand_in = route.standby or (route.canary if route.weight else None)
    return _cluster("stable", route.limits, route.stable, stand_in)


def canary(route: Route, canary: Target) -> Resource:
    return _cluster("canary", route.limits, canary, route.stable)


def shadow(route: Route, canary: Target) -> Resource:
    """Nobody stands in for a shadow, and none of its copies takes up room of the canary's own requests."""
    return _cluster("shadow", route.limits, canary, None)


def _clusters(route: Route) -> list[Resource]:
    either = [stable(replace(route, weight=weight)) for weight in (0.0, 1.0)]
    return either + [arm(route, route.canary) for arm in (canary, shadow) if route.canary]


def _cluster(arm: str, limits: Limits, target: Target, stand_in: Target | None) -> Resource:
    hosts = [target] if stand_in is None else [target, stand_in]
    content = typed(
        "config.cluster.v3.Cluster",
        type="STATIC",
        connect_timeout="1s",
        metadata={"filter_metadata": {PREFIX: {"arm": arm}}},
        circuit_breakers={"thresholds": [_thresholds(limits)]},
        health_checks=[_health_check()],
        outlier_detection=_outlier_detection(),
        typed_extension_protocol_options=_protocol(),
    )
    endpoints = [
        {"priority": priority, "lb_endpoints": [{"endpoint": {"address": address(host.port)}}]}
        for priority, host in enumerate(hosts)
    ]
    digest = hashlib.sha256(json.dumps([content, endpoints]).encode()).hexdigest()[:8]
    name = f"{arm}:{'>'.join(f'{host.release_id}@{host.port}' for host in hosts)}:{digest}"
    return {**content, "name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


def _thresholds(limits: Limits) -> Resource:
    """There are more connections than requests: a request that finds none waits, and is not refused."""
    return {
        "max_connections": 2 * limits.max_requests,
        "max_pending_requests": limits.max_requests,
        "max_requests": limits.max_requests,
        "max_retries": MAX_RETRIES,
        "track_remaining": True,  # tells whether requests wait for another try
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
        "http_health_check": {"host": "127.0.0.1", "path": "/readyz"},
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


def _protocol() -> Resource:
    options = typed(
        "extensions.upstreams.http.v3.HttpProtocolOptions",
        common_http_protocol_options={"idle_timeout": f"{UPSTREAM_IDLE_SECONDS}s"},
        explicit_http_config={"http_protocol_options": {}},
    )
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
