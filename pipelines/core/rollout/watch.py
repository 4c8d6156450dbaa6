"""What is to be looked at while a step of a rollout goes on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.answers import Answers
from pipelines.core.rollout.observation import ArmName
from pipelines.core.rollout.routes import Target

if TYPE_CHECKING:  # it brings SciPy, which a process that only takes a measure has no use for
    from pipelines.core.rollout.plan import Kind

DAY_SECONDS = 86_400.0
PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Measure:
    """A metric of labels or of the business. SQL or a function makes a table with release_id and value, one
    row a request, or with release_id, count, total and squares. Where it also has a column user, users are
    what is counted: the value of one is the mean of its rows, and rows without a user do not count.

    sql            one SELECT over the view `predictions`, the prediction log of both releases since the step
                   began, and over one view for each of `files`
    function       "package.module:name": gets the same views as a dict of DuckDB relations, and gives back a
                   relation, a pandas DataFrame or a pyarrow Table
    files          names of views → globs of Parquet or CSV files, relative to SEATRIAL_HOME
    every_seconds  it is taken anew so often
    """

    name: str
    sql: str | None = None
    function: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    every_seconds: float = 30.0

    def __post_init__(self) -> None:
        if (self.sql is None) == (self.function is None):
            given = {"sql": self.sql, "function": self.function}
            raise SettingsInvalid(self.name, given, "a metric is told by SQL or by a function: write one")
        if self.function is not None and self.function.count(":") != 1:
            raise SettingsInvalid(f"{self.name}.function", self.function, "write package.module:name")
        for name in self.files:
            if not name.isidentifier() or name == PREDICTIONS:
                mend = f"write a name of letters, digits and _ that is not {PREDICTIONS}"
                raise SettingsInvalid(f"{self.name}.files", name, mend)
        if not self.every_seconds > 0:
            raise SettingsInvalid(f"{self.name}.every_seconds", self.every_seconds, "write seconds above 0")

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Watch:
    """One step of a model's rollout.

    kind            of the step
    label           by which the access log knows the step, as the route has it
    stable, canary  who answers
    since           when the step began, in seconds since the epoch
    answers         how answers are counted; None: predictions aren't judged
    """

    model: str
    kind: "Kind"
    label: str
    stable: Target
    canary: Target
    since: float
    answers: Answers | None = None
    measures: tuple[Measure, ...] = ()

    @property
    def releases(self) -> dict[str, ArmName]:
        return {self.stable.release_id: "stable", self.canary.release_id: "canary"}

    @property
    def spans(self) -> dict[str, tuple[float, float]]:
        """By release id."""
        return {release: self.span(arm) for release, arm in self.releases.items()}

    def span(self, arm: ArmName) -> tuple[float, float]:
        """From when to before when what an arm answered counts, in seconds since the epoch. After a flip of
        blue_green, stable answers no more: it is what it was on the day before."""
        if self.kind == "blue_green" and arm == "stable":
            return self.since - DAY_SECONDS, self.since
        return self.since, float("inf")
