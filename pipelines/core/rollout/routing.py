"""What the router is to do, and which services are to run, as it follows from how a model stands."""

from collections.abc import Mapping
from datetime import datetime
from math import ceil

from bentos.manifest import Plan
from pipelines.core.release import Release
from pipelines.core.rollout.routes import Limits, Route, Target
from pipelines.core.rollout.standing import Standing

ANSWER_SECONDS = 60.0
"""The least that a service is given for an answer: clients may ask for more than the default deadline."""
LEAST_REQUESTS = 64


def limits_of(plan: Plan, max_rps: float | None = None) -> Limits:
    """What the router lets through to a service that batches by this plan: twice what it holds itself, which
    it refuses with better reasons, so that only a service that has stopped to answer is protected here."""
    largest = max((cost for cost in plan.costs if cost[0] <= plan.max_batch_size), default=None)
    per_row_ms = largest[2] / largest[0] if largest else 0.0
    waiting = plan.max_queue_rows or (plan.max_latency_ms / per_row_ms if per_row_ms else Limits.max_requests)
    held = plan.workers * (waiting * plan.replicas + plan.max_batch_size * plan.replicas)
    longest_ms = plan.max_latency_ms + plan.max_request_rows * per_row_ms
    return Limits(
        max(LEAST_REQUESTS, ceil(2 * held)),
        plan.max_body_bytes,
        max(ANSWER_SECONDS, 2 * longest_ms / 1000),
        max_rps,
    )


def standby(found: Standing, now: float) -> Release | None:
    """The former release while it is kept ready, after a rollout that its successor passed."""
    newest = found.rollouts[-1] if found.rollouts else None
    if newest is None or found.since is None or found.by != "promoted":
        return None
    age_seconds = now - datetime.fromisoformat(found.since).timestamp()
    return found.former if age_seconds < newest.setting.get("standby_seconds", 0) else None


def kept(found: Standing, now: float) -> tuple[Release, ...]:
    """The releases whose services are to run."""
    trying = found.rollout.canary if found.rollout else None
    return tuple(each for each in (found.production, trying, standby(found, now)) if each)


def route_of(found: Standing, targets: Mapping[str, Target], now: float) -> Route:
    """How requests are shared out, by what is in production; `targets` are services by release id. A canary
    or a standby that is not among them gets nothing. Raises KeyError for stable."""
    assert found.production
    stable, limits = targets[found.production.release_id], found.production.limits
    rollout, second = found.rollout, standby(found, now)
    if rollout is None:
        behind = targets.get(second.release_id) if second else None
        return Route(stable, standby=behind, label=found.production.model, limits=limits)
    state, canary = rollout.state, targets.get(rollout.canary.release_id)
    weight, mirrored = (state.weight, state.mirrored) if canary else (0.0, 0.0)
    return Route(stable, canary, None, weight, mirrored, rollout.salt, rollout.label, limits)
