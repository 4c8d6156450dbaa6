"""Who and what Envoy lets in: API keys, requests a second, sizes; and how a refusal is said.

The filters stand in the listener and do nothing there. The routes give them something to do, so a change of
keys or limits is a change of routes. Values in, values out.
"""

import math
from collections import Counter
from collections.abc import Mapping

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.routes import Limits, Route
from pipelines.gateways.envoy_types import PREFIX, Resource, typed

KEYS, RATES, BODY = (f"envoy.filters.http.{name}" for name in ("api_key_auth", "local_ratelimit", "buffer"))
OTHERS_RPS = 10**9  # of paths without a limit, which have to have one
REFUSALS = {  # why Envoy itself turned a request away, by status
    401: "bring an API key that is known here, as x-api-key or as Authorization: Bearer",
    404: "no model answers at this path",
    408: "the request did not arrive in time",
    413: "the request is larger than this path takes",
    429: "more requests a second than this path takes, try again in a second",
    431: "the headers are larger than they may be",
    504: "the service did not answer in time",
}


def refuse_unclear(keys: Mapping[str, str]) -> None:
    """Raises SettingsInvalid, which says no key."""
    times = Counter(keys.values())
    unclear = sorted(client for client, key in keys.items() if not client or not key or times[key] > 1)
    if unclear:
        raise SettingsInvalid("API keys of clients", unclear, "give each of them one that no other has")


def filters() -> list[Resource]:
    """All but the last wait for the routes."""
    waiting = {
        KEYS: typed("extensions.filters.http.api_key_auth.v3.ApiKeyAuth"),
        RATES: typed("extensions.filters.http.local_ratelimit.v3.LocalRateLimit", stat_prefix=PREFIX),
        BODY: typed("extensions.filters.http.buffer.v3.Buffer", max_request_bytes=1),
    }
    last = typed("extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)
    return [
        *({"name": name, "disabled": True, "typed_config": settings} for name, settings in waiting.items()),
        {"name": "envoy.filters.http.router", "typed_config": last},
    ]


def refusals() -> Resource:
    """What Envoy answers by itself, in the form in which services say their errors."""
    plain = [_refusal("EQ", status, body={"inline_string": why}) for status, why in REFUSALS.items()]
    return {"mappers": [*plain, _refusal("GE", 400)]}


def of_all(routes: Mapping[str, Route], keys: Mapping[str, str]) -> Resource:
    """What holds for every path. With `keys` (client to key), only those who bring one are let in."""
    limits = {path: route.limits.max_rps for path, route in routes.items() if route.limits.max_rps}
    return {**({RATES: _rates(limits)} if limits else {}), **({KEYS: _known(keys)} if keys else {})}


def of_route(limits: Limits) -> Resource:
    size = {"max_request_bytes": limits.max_body_bytes}
    return {BODY: typed("extensions.filters.http.buffer.v3.BufferPerRoute", buffer=size)}


def without_keys() -> Resource:
    return {KEYS: typed("config.route.v3.FilterConfig", disabled=True)}


def _rates(limits: Mapping[str, float]) -> Resource:
    """A bucket a path holds a second's worth. It is full again after any change of the routes."""
    always = {"default_value": {"numerator": 100}}
    where = {"key": PREFIX, "path": [{"key": "path"}]}
    of_path = {"metadata": {"descriptor_key": "path", "metadata_key": where, "source": "ROUTE_ENTRY"}}
    return typed(
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix=PREFIX,
        filter_enabled=always,
        filter_enforced=always,
        token_bucket=_bucket(OTHERS_RPS),
        always_consume_default_token_bucket=False,
        rate_limits=[{"actions": [of_path]}],
        descriptors=[
            {"entries": [{"key": "path", "value": path}], "token_bucket": _bucket(max_rps)}
            for path, max_rps in limits.items()
        ],
    )


def _bucket(max_rps: float) -> Resource:
    tokens = math.ceil(max_rps)
    return {"max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": f"{tokens / max_rps:.6f}s"}


def _known(keys: Mapping[str, str]) -> Resource:
    return typed(
        "extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute",
        credentials=[{"client": client, "key": key} for client, key in keys.items()],
        key_sources=[{"header": "x-api-key"}, {"header": "authorization"}],
        forwarding={"header": "x-client-id", "hide_credentials": True},
    )


def _refusal(op: str, status: int, **body: Resource) -> Resource:
    value = {"default_value": status, "runtime_key": f"{PREFIX}.refusal"}
    soon = [{"header": {"key": "retry-after", "value": "1"}}] if status == 429 else []
    return {
        "filter": {"status_code_filter": {"comparison": {"op": op, "value": value}}},
        "body_format_override": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
        "headers_to_add": soon,
        **body,
    }
