"""What Envoy is told of how requests are shared out among the services. Values in, values out.

Users are placed by a hash of salt and x-user-id among 10,000 equal parts, of which the canary has the first:
https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/route/v3/route_components.proto#config-route-v3-weightedcluster
"""

from collections.abc import Mapping

from pipelines.core.rollout.routes import Limits, Route, Target
from pipelines.gateways import envoy_clusters, envoy_guards
from pipelines.gateways.envoy_types import PREFIX, VERSION_PATH, Resource, typed

WHOLE = 10_000
IDLE_SECONDS = 60  # at least, in which nothing at all of a request or its answer moves
RETRY_ON = "connect-failure,refused-stream,reset"  # a prediction asked for twice is the same prediction
RETRIES, FIRST_RETRY_SECONDS, RETRY_SECONDS = (
    25,
    0.1,
    1.0,
)  # together longer than a supervisor takes to restart


def configuration(version: str, routes: Mapping[str, Route], keys: Mapping[str, str]) -> Resource:
    """The paths, the longest first; the services do not see them. `keys` are of clients, see envoy_guards."""
    told = {
        "match": {"path": VERSION_PATH},
        "direct_response": {"status": 200, "body": {"inline_string": version}},
        "typed_per_filter_config": envoy_guards.without_keys() if keys else {},
    }
    longest_first = sorted(routes, key=len, reverse=True)
    host = {
        "name": PREFIX,
        "domains": ["*"],
        "routes": [told, *(each for path in longest_first for each in _routes(path, routes[path]))],
        "typed_per_filter_config": envoy_guards.of_all(routes, keys),
    }
    return typed(
        "config.route.v3.RouteConfiguration", name=PREFIX, validate_clusters=True, virtual_hosts=[host]
    )


def _routes(path: str, route: Route) -> list[Resource]:
    """Whoever asks for an arm by x-release gets that; an arm that is not there is stable."""
    stable = {"cluster": envoy_clusters.stable(route)["name"]}
    if route.canary is None:
        return _matching(path, route, stable)
    canary = {"cluster": envoy_clusters.canary(route, route.canary)["name"]}
    return [
        *_matching(path, route, canary, _asks_for("canary")),
        *_matching(path, route, stable, _asks_for("stable")),
        *_matching(path, route, _shared(route, route.canary)),
    ]


def _shared(route: Route, canary: Target) -> Resource:
    """The canary is first, so that a greater weight only adds users to it."""
    part = round(route.weight * WHOLE)
    shares = [
        {"name": envoy_clusters.canary(route, canary)["name"], "weight": part},
        {"name": envoy_clusters.stable(route)["name"], "weight": WHOLE - part},
    ]
    salted = {"pattern": {"regex": "^"}, "substitution": route.salt.replace("\\", "\\\\")}
    copied = {"numerator": round(route.mirrored * 1_000_000), "denominator": "MILLION"}
    mirror = {
        "cluster": envoy_clusters.shadow(route, canary)["name"],
        "runtime_fraction": {"default_value": copied},
        "disable_shadow_host_suffix_append": True,
    }
    return {
        "weighted_clusters": {"clusters": shares, "use_hash_policy": True},
        "hash_policy": [{"header": {"header_name": "x-user-id", "regex_rewrite": salted}}],
        "request_mirror_policies": [mirror] if route.mirrored else [],
    }


def _matching(path: str, route: Route, to: Resource, *headers: Resource) -> list[Resource]:
    """Everything at and below the path."""
    action, matches = {**_action(route.limits), **to}, [{"prefix": "/"}]
    if path != "/":
        action, matches = {**action, "prefix_rewrite": "/"}, [{"path": path}, {"prefix": f"{path}/"}]
    return [
        {
            "name": route.label,
            "metadata": {"filter_metadata": {PREFIX: {"path": path}}},
            "match": {**match, "headers": headers},
            "route": action,
            "request_body_buffer_limit": route.limits.max_body_bytes,  # whatever is let in can be tried again
            "typed_per_filter_config": envoy_guards.of_route(route.limits),
        }
        for match in matches
    ]


def _action(limits: Limits) -> Resource:
    elsewhere = typed(
        "extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", update_frequency=1
    )
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
                "typed_config": elsewhere,
            },
        },
    }


def _asks_for(arm: str) -> Resource:
    return {"name": "x-release", "string_match": {"exact": arm}}
