"""What is known of both arms of a rollout at one moment, counted from what router and services write down."""

from abc import ABC, abstractmethod

from pipelines.core.home import Home
from pipelines.core.rollout.counting import ArmTally
from pipelines.core.rollout.observation import Arm, ArmName, Moments
from pipelines.core.rollout.watch import Watch
from pipelines.gateways.logged_answers import LoggedAnswers
from pipelines.gateways.logged_requests import LoggedRequests
from pipelines.gateways.measuring import Measuring
from pipelines.gateways.service_counts import ServiceRequests

LOOK_SEGMENTS = 100
"""Of the prediction log: about a quarter of a second, for which other rollouts wait."""


class Telemetry(ABC):
    """Where counts come from."""

    @abstractmethod
    def look(self, watch: Watch, now: float) -> tuple[Arm | None, Arm | None]:
        """Stable and canary since the step began, `now` in seconds since the epoch. An arm that nothing can
        be told of is None. Raises nothing for what is missing, damaged or late: `troubles` says it."""

    @abstractmethod
    def troubles(self, model: str) -> dict[str, str]:
        """What the last look at the model's rollout found missing: a sentence by the name of the source or of
        the measure."""

    @abstractmethod
    def forget(self, model: str) -> None:
        """The model's rollout is over."""


class LogTelemetry(Telemetry):
    """From the files below `home`, and from the services' /metrics.

    canary, ab   requests, errors and latencies from the access log, answers from the prediction log
    blue_green   the same; stable is what it answered on the day before the flip, as far as logs reach back
    shadow       copies of requests are in no access log. Requests and errors are how the services' own counts
                 rose, latencies (within the service) and answers are from the prediction log. Stable is all
                 that it answers, mirrored or not: which requests are mirrored is chance

    What was written since the step began is read again by a new process. While that goes on, arms are None,
    or have no predictions: what is half read is not known.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._views: dict[str, _View] = {}

    def look(self, watch: Watch, now: float) -> tuple[Arm | None, Arm | None]:
        view = self._views.get(watch.model)
        if view is None or view.watch != watch:
            self.forget(watch.model)
            view = self._views[watch.model] = _View(self._home, watch)
        return view.look(now)

    def troubles(self, model: str) -> dict[str, str]:
        return self._views[model].troubles() if model in self._views else {}

    def forget(self, model: str) -> None:
        if view := self._views.pop(model, None):
            view.close()


class _View:
    """All that is remembered of one step between two looks."""

    def __init__(self, home: Home, watch: Watch) -> None:
        self.watch = watch
        bins = len(watch.answers.edges) + 1 if watch.answers else 0
        self._tallies: dict[ArmName, ArmTally] = {"stable": ArmTally(bins), "canary": ArmTally(bins)}
        self._requests = ServiceRequests(watch) if watch.kind == "shadow" else LoggedRequests(home, watch)
        self._answers = LoggedAnswers(home.prediction_log(watch.model), watch)
        self._measuring = {each.name: Measuring(each, watch, home) for each in watch.measures}

    def look(self, now: float) -> tuple[Arm | None, Arm | None]:
        known = self._requests.add(self._tallies, now)
        if self.watch.answers or self.watch.kind == "shadow":
            self._add_answers(now)
        metrics = {name: measuring.look(now) for name, measuring in self._measuring.items()}
        stable, canary = (self._arm(arm, known, metrics) for arm in self._tallies)
        return stable, canary

    def troubles(self) -> dict[str, str]:
        found = {
            **self._requests.troubles(),
            "prediction log": self._answers.trouble,
            **{name: measuring.trouble for name, measuring in self._measuring.items()},
        }
        return {name: trouble for name, trouble in found.items() if trouble}

    def close(self) -> None:
        for measuring in self._measuring.values():
            measuring.close()

    def _add_answers(self, now: float) -> None:
        for found in self._answers.new(LOOK_SEGMENTS, now):
            tally = self._tallies[found.arm]
            tally.answered(found.counts)
            if self.watch.kind == "shadow":
                tally.took(found.times_ms)

    def _arm(self, arm: ArmName, known: set[ArmName], metrics: dict[str, dict[str, Moments]]) -> Arm | None:
        if arm not in known:
            return None
        (release,) = (release for release, its in self.watch.releases.items() if its == arm)
        found = {name: moments[release] for name, moments in metrics.items() if release in moments}
        return self._tallies[arm].arm(found, with_predictions=not self._answers.is_behind)
