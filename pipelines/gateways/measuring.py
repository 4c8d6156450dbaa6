"""A metric that is taken by a process of its own: once, or again and again beside the controller, which never
waits for it."""

import json
import math
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile

from pipelines.core.home import Home
from pipelines.core.rollout.observation import Moments
from pipelines.core.rollout.watch import Measure, Watch
from pipelines.gateways.measures import MeasureFailed, Spans, job_of

COMMAND = (sys.executable, "-m", "pipelines.gateways.measures")
LATE_SECONDS = 300.0


def take(
    measure: Measure, model: str, spans: Spans, home: Home, users_file: Path | None = None
) -> dict[str, Moments]:
    """Once, and wait for it. By release id; for the rest see `measures.job_of`. Raises MeasureFailed."""
    job = json.dumps(job_of(measure, model, spans, home, users_file)).encode()
    try:
        done = subprocess.run(COMMAND, input=job, capture_output=True, timeout=LATE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise MeasureFailed(_too_long(measure.name)) from error
    return _answer(measure.name, done.stdout, done.returncode)


def _answer(name: str, said: bytes, code: int | None) -> dict[str, Moments]:
    try:
        answer = json.loads(said)
    except ValueError as error:
        raise MeasureFailed(f"the process that takes {name} ended with {code}") from error
    if trouble := answer.get("trouble"):
        raise MeasureFailed(trouble)
    return {release: Moments(*figures) for release, figures in answer["moments"].items()}


def _too_long(name: str) -> str:
    return f"{name} takes longer than {LATE_SECONDS:g} seconds"


class Measuring:
    """One measure of one step, each time in a process of its own."""

    def __init__(self, measure: Measure, watch: Watch, home: Home) -> None:
        self._measure, self._watch, self._home = measure, watch, home
        self._process: subprocess.Popen | None = None
        self._said = TemporaryFile()  # noqa: SIM115  open as long as the process may write
        self._started = -math.inf
        self._known: dict[str, int] = {}
        self._found: dict[str, Moments] = {}
        self.trouble = ""

    def look(self, now: float) -> dict[str, Moments]:
        """What is known by now, by release id; nothing before it was first taken, and nothing where it failed
        the last time, of which `trouble` tells."""
        process, took = self._process, now - self._started
        if process is not None and process.poll() is not None:
            self._take(process)
        elif process is not None and took > LATE_SECONDS:
            self.close()
            self._fail(_too_long(self._measure.name))
        elif process is None and took >= self._measure.every_seconds:
            try:
                self._start(now)
            except OSError as error:
                self._fail(f"{self._measure.name} can't be taken: {error}")
        return self._found

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self, now: float) -> None:
        self._started = now
        self._said.seek(0)
        self._said.truncate()
        watch = self._watch
        job = json.dumps(job_of(self._measure, watch.model, watch.spans, self._home)).encode()
        with TemporaryFile() as given:  # unlike a pipe, it is never full, and nobody waits at its end
            given.write(job)
            given.seek(0)
            self._process = subprocess.Popen(
                COMMAND, stdin=given, stdout=self._said, stderr=subprocess.DEVNULL
            )

    def _take(self, process: subprocess.Popen) -> None:
        self._process = None
        self._said.seek(0)
        try:
            self._keep(_answer(self._measure.name, self._said.read(), process.returncode))
        except MeasureFailed as failed:
            self._fail(str(failed))

    def _keep(self, found: dict[str, Moments]) -> None:
        fewer = [
            name for name, count in self._known.items() if name not in found or found[name].count < count
        ]
        if fewer:
            return self._fail(f"{self._measure.name} is known of fewer than before in {', '.join(fewer)}")
        self._known = {release: each.count for release, each in found.items()}
        self._found, self.trouble = found, ""

    def _fail(self, trouble: str) -> None:
        self._found, self.trouble = {}, trouble
