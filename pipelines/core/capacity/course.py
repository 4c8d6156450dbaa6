"""The course of a load test: what is offered, in which order, and when to go on.

    peak       half of the expected peak, the peak, twice the peak: what was promised
    climb      steps from there, until the promise breaks: the knee
    overload   twice the knee
    soak       half the knee, in parts, with a look at memory and descriptors after each

Where a version is in production, both take turns in the first two, so that a noisy machine hits them alike.
The knee is searched like a root: three times as much until it breaks, then halving what is left.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from bentos.manifest import Slo
from pipelines.core.capacity.gate import is_close
from pipelines.core.capacity.proof import Step
from pipelines.core.capacity.readings import Reading, Usage, between
from pipelines.core.latency import Offer, Samples, Stage, fell_behind, histogram, summarise

PEAKS = (("½x peak", 0.5), ("peak", 1.0), ("2x peak", 2.0))
ATTEMPTS = 3
"""A stage in which the generator fell behind is void, and measured so often before it is given up."""
CLIMB_ATTEMPTS = 2
"""Somewhere on the way up it falls behind for good."""
MOST_ROUNDS = 5
"""Twice the peak, where it is too close to the limit, is continued to so many times its length."""
CLIMB_SECONDS, CLIMB, REFINEMENTS = 2.0, 3.0, 3
MOST_RPS = 50_000
"""No generator of one process offers more."""
KEPT_SHARE = 0.98
"""A service holds a rate while it answers so much of what is offered, with its p99 within the promise."""
OVERLOAD, OVERLOAD_SECONDS = 2.0, 4.0
LEAST_CLIENTS, MOST_CLIENTS = 64, 512
CONNECT_SECONDS = 1.5
"""A busy event loop takes one new connection a turn: so long it may take until all clients have theirs."""
SOAK, SOAK_PARTS = 0.5, 5
WARM_UP_SECONDS = 2.0

Send = Callable[[Offer, int], tuple[Stage, Samples]]
"""Offers one stage, by a seed."""


@dataclass
class Runner:
    """One release on its course. `watch` looks at its service; None: it is gone, and is offered nothing more.
    `steps` and their `samples` are kept."""

    send: Send
    watch: Callable[[], Reading | None]
    steps: list[Step] = field(default_factory=list)
    samples: list[Samples] = field(default_factory=list)
    knee_rps: float = 0.0
    knee_reached: bool = False
    offered_seconds: float = 0.0
    is_gone: bool = False
    _number: int = 0
    _last: Reading = field(default_factory=lambda: Reading(Usage(0.0, 0, 0), ""))

    def warm_up(self, rate_rps: float) -> None:
        """Load that is not measured."""
        self._offer(Offer("warm-up", rate_rps, WARM_UP_SECONDS))

    def peak(self, offer: Offer, promise: Slo, most_rounds: int = 1) -> None:
        """One of the stages that the promise is about: continued, to so many rounds, while it is too close to
        tell."""
        before = self._look()
        rounds: list[tuple[Stage, Samples]] = []
        for _ in range(most_rounds):
            rounds.append(self._valid(offer, promise))
            stage, samples = _together(offer, rounds)
            if not is_close(stage, promise.p99_ms, promise.max_error_rate):
                break
        self._keep("peak", stage, samples, before)

    def climb(self, promise: Slo) -> None:
        """Up to where the promise breaks. Where the generator cannot go on, the knee is beyond."""
        low, high = self._highest_held(promise), None
        while high is None and low < MOST_RPS:
            rate = low * CLIMB
            held = self._holds(rate, promise)
            if held is None or self.is_gone:
                break
            low, high = (rate, None) if held else (low, rate)
        self.knee_reached = high is not None
        for _ in range(REFINEMENTS if high else 0):
            assert high is not None
            rate = (low * high) ** 0.5
            low, high = (rate, high) if self._holds(rate, promise) else (low, rate)
        self.knee_rps = low

    def overload(self, promise: Slo) -> None:
        """Twice the knee, where there is one, by as many clients as could be answered within half of the time
        that they are given."""
        if self.knee_reached and not self.is_gone:
            before = self._look()
            clients = round(self.knee_rps * promise.p99_ms / 2000)
            clients = max(LEAST_CLIENTS, min(clients, MOST_CLIENTS))
            seconds = CONNECT_SECONDS + OVERLOAD_SECONDS
            offer = Offer("overload", OVERLOAD * self.knee_rps, seconds, clients=clients)
            self._keep("overload", *_once_connected(offer, *self._offer(offer)), before)

    def soak(self, seconds: float) -> None:
        """Half the knee, in parts."""
        for part in range(SOAK_PARTS):
            if self.is_gone:
                break
            before = self._look()
            offer = Offer(f"soak {part + 1}", SOAK * self.knee_rps, seconds / SOAK_PARTS)
            self._keep("soak", *self._offer(offer), before)

    def _look(self) -> Reading:
        found = self.watch()
        self.is_gone |= found is None
        self._last = found or self._last
        return self._last

    def _highest_held(self, promise: Slo) -> float:
        held = [step.stage.rate_rps for step in self.steps if is_held(step.stage, promise.p99_ms)]
        return max(held, default=self.steps[0].stage.rate_rps / CLIMB)

    def _holds(self, rate_rps: float, promise: Slo) -> bool | None:
        """Whether the promise holds at a rate; None where that cannot be offered."""
        before = self._look()
        offer = Offer(f"{rate_rps:,.0f}/s", rate_rps, CLIMB_SECONDS)
        stage, samples = self._valid(offer, promise, CLIMB_ATTEMPTS)
        if fell_behind(stage, promise.p99_ms):
            return None
        self._keep("climb", stage, samples, before)
        return is_held(stage, promise.p99_ms)

    def _valid(self, offer: Offer, promise: Slo, attempts: int = ATTEMPTS) -> tuple[Stage, Samples]:
        """The first run that is not void, else the last."""
        for _ in range(attempts):
            found = self._offer(offer)
            if fell_behind(found[0], promise.p99_ms) is None:
                break
        return found

    def _offer(self, offer: Offer) -> tuple[Stage, Samples]:
        self._number += 1
        self.offered_seconds += offer.seconds
        return self.send(offer, self._number)

    def _keep(self, kind: str, stage: Stage, samples: Samples, before: Reading) -> None:
        service = between(before, self._look(), stage.requests)
        self.samples.append(samples)
        self.is_gone |= kind != "overload" and stage.requests < stage.planned
        self.steps.append(Step(kind, stage, service, histogram(samples).decode()))


def run_course(runners: Mapping[str, Runner], promise: Slo, load_seconds: float, soak_seconds: float) -> None:
    """Take the runners over the course, the first of them, the candidate, to its end."""
    for runner in runners.values():
        runner.warm_up(promise.expected_peak_rps)
    for name, times in PEAKS:
        is_last = name == PEAKS[-1][0]
        offer = Offer(name, times * promise.expected_peak_rps, load_seconds if is_last else load_seconds / 2)
        for runner in _there(runners):
            runner.peak(offer, promise, MOST_ROUNDS if is_last else 1)
    for runner in _there(runners):
        runner.climb(promise)
    candidate = next(iter(runners.values()))
    candidate.overload(promise)
    candidate.soak(soak_seconds)


def is_held(stage: Stage, p99_ms: float) -> bool:
    """Whether a rate is held: nearly all was answered, with the p99 within the promise."""
    answered = (stage.requests - stage.errors) / stage.planned
    return stage.p99_ms <= p99_ms and answered >= KEPT_SHARE


def _there(runners: Mapping[str, Runner]) -> list[Runner]:
    return [runner for runner in runners.values() if not runner.is_gone]


def _once_connected(offer: Offer, stage: Stage, samples: Samples) -> tuple[Stage, Samples]:
    """The stage without its first seconds."""
    since = samples.intended_s >= CONNECT_SECONDS
    times = (samples.intended_s, samples.sent_s)
    intended_s, sent_s = (values[since] - CONNECT_SECONDS for values in times)
    kept = Samples(intended_s, sent_s, samples.latency_ms[since], samples.status[since])
    seconds, share = offer.seconds - CONNECT_SECONDS, len(kept.status) / max(1, stage.requests)
    shorter, planned = replace(offer, seconds=seconds), round(stage.planned * seconds / offer.seconds)
    return summarise(shorter, planned, kept, stage.cpu_us * stage.requests * share / 1e6), kept


def _together(offer: Offer, rounds: list[tuple[Stage, Samples]]) -> tuple[Stage, Samples]:
    """Several rounds of a stage as one, one after the other."""
    whole = replace(offer, seconds=offer.seconds * len(rounds))
    starts = [number * offer.seconds for number in range(len(rounds))]
    pairs = [(start, samples) for start, (_, samples) in zip(starts, rounds, strict=True)]
    joined = Samples(
        np.concatenate([start + samples.intended_s for start, samples in pairs]),
        np.concatenate([start + samples.sent_s for start, samples in pairs]),
        np.concatenate([samples.latency_ms for _, samples in pairs]),
        np.concatenate([samples.status for _, samples in pairs]),
    )
    cpu_seconds = sum(stage.cpu_us * stage.requests for stage, _ in rounds) / 1e6
    return summarise(whole, sum(stage.planned for stage, _ in rounds), joined, cpu_seconds), joined
