"""What is put into production."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.core.rollout.routes import Limits


@dataclass(frozen=True)
class Release:
    """One version of a model as it serves.

    registered the model's name in the registry
    tag        of the bento
    path       where it answers below the shared address
    artifact   its folder, relative to SEATRIAL_HOME
    evidence   digests, verdicts and figures that it was judged by
    image      name@sha256:… of the container image that it runs from; empty: it runs as processes
    limits     what the router lets through to it
    """

    model: str
    version: str
    release_id: str
    rung: str
    tag: str
    path: str
    artifact: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    image: str = ""
    registered: str = ""
    limits: Limits = field(default_factory=Limits)

    @property
    def process(self) -> str:
        """Its name among the supervised processes: another where it runs from an image."""
        return f"{self.model}-{self.release_id}{'-image' if self.image else ''}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Release":
        return cls(**{**found, "limits": Limits(**found["limits"])})
