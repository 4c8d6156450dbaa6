"""Where requests go, as data: what the router is told for each path."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Limits:
    """What the router lets through to the services of a path.

    max_requests     at once of one arm, those that wait included; more are 503
    max_body_bytes   of one request; more are 413
    answer_seconds   within which a service has to answer; later is 504
    max_rps          requests a second of the whole path; more are 429. None: no limit
    """

    max_requests: int = 1024
    max_body_bytes: int = 16 * 2**20
    answer_seconds: float = 60.0
    max_rps: float | None = None


@dataclass(frozen=True)
class Target:
    """A service on 127.0.0.1 that answers for a release."""

    release_id: str
    port: int


@dataclass(frozen=True)
class Route:
    """How the requests of one path are shared out.

    stable      gets what the canary does not get
    canary      the release that is tried; one that is not ready is stood in for by stable
    standby     stands in for stable while that is not ready; without one the canary does, if it has users
    weight      the share of users that get the canary
    mirrored    the share of requests that the canary gets a copy of; none of those with a forced arm
    salt        users are placed by a hash of it and x-user-id: the same one all through a rollout
    label       of what goes on, such as "churn/17/2"; the access log says it of each request
    """

    stable: Target
    canary: Target | None = None
    standby: Target | None = None
    weight: float = 0.0
    mirrored: float = 0.0
    salt: str = ""
    label: str = ""
    limits: Limits = field(default_factory=Limits)

    @property
    def targets(self) -> frozenset[Target]:
        return frozenset(each for each in (self.stable, self.canary, self.standby) if each)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Route":
        targets = {name: Target(**found[name]) for name in ("stable", "canary", "standby") if found.get(name)}
        return cls(**{**found, **targets, "limits": Limits(**found["limits"])})
