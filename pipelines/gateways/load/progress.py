"""What is told of a stage while it runs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipelines.core.latency import Samples, Stage, percentile
from pipelines.gateways.load.sending import Sending

TOLD_EVERY_S = 0.5


@dataclass(frozen=True)
class Moment:
    """A look at a stage: `sent` of `planned` requests so far, and of those `errors` without an answer of 2xx,
    of which `refused` were told to come back later. rate_rps (answers of any kind) and p99_ms are of the time
    since the last look; at the end of a stage, of the whole stage."""

    stage: str
    seconds: float
    of_seconds: float
    sent: int
    planned: int
    rate_rps: float
    p99_ms: float
    errors: int
    refused: int


Progress = Callable[[Moment], None]


def line(moment: Moment) -> str:
    """For a terminal: "2x peak  14/20 s  100/s  p99 8.2 ms  0 errors"."""
    refused = f", {moment.refused} of them refused" if moment.refused else ""
    return (
        f"{moment.stage}  {moment.seconds:.0f}/{moment.of_seconds:g} s  {moment.rate_rps:.0f}/s  "
        f"p99 {moment.p99_ms:.1f} ms  {moment.errors} error{'' if moment.errors == 1 else 's'}{refused}"
    )


class Meter:
    """Tells of one stage about twice a second."""

    def __init__(self, stage: str, of_seconds: float, progress: Progress | None) -> None:
        self._stage, self._of_seconds, self._progress = stage, of_seconds, progress
        self._told_s, self._seen, self._errors, self._refused = 0.0, 0, 0, 0

    def look(self, sending: Sending) -> None:
        now_s = sending.now_s()
        if self._progress is None or now_s < self._told_s + TOLD_EVERY_S:
            return
        fresh = sending.answers[self._seen :]
        took_s, self._told_s, self._seen = now_s - self._told_s, now_s, self._seen + len(fresh)
        samples = _samples(sending, fresh)
        self._errors += int((~samples.ok).sum())
        self._refused += int(samples.refused.sum())
        p99_ms = percentile(samples.latency_ms[samples.ok], 99)
        counts = sending.sent, sending.planned, len(fresh) / took_s, p99_ms, self._errors, self._refused
        self._progress(Moment(self._stage, min(now_s, self._of_seconds), self._of_seconds, *counts))

    def end(self, stage: Stage, seconds: float) -> None:
        """Tell of the whole stage, which took so long."""
        if self._progress is not None:
            rate_rps = stage.requests / seconds if seconds else 0.0
            counts = stage.requests, stage.planned, rate_rps, stage.p99_ms, stage.errors, stage.refused
            self._progress(Moment(stage.name, min(seconds, stage.seconds), stage.seconds, *counts))


def _samples(sending: Sending, numbers: list[int]) -> Samples:
    times = (sending.due_s, sending.sent_s, sending.ended_s)
    due_s, sent_s, ended_s = (np.array([values[number] for number in numbers], float) for values in times)
    status = np.array([sending.status[number] for number in numbers], np.int64)
    return Samples(due_s, sent_s, (ended_s - due_s) * 1000, status)
