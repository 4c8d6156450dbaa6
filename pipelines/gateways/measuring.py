"""A metric that is taken again and again beside the controller, which never waits for it."""

import json
import math
import subprocess
import sys
from tempfile import TemporaryFile

from pipelines.core.home import Home
from pipelines.core.rollout.observation import Moments
from pipelines.core.rollout.watch import Measure, Watch
from pipelines.gateways.measures import job_of

LATE_SECONDS = 300.0


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
            self._fail(f"{self._measure.name} takes longer than {LATE_SECONDS:g} seconds")
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
        command = (sys.executable, "-m", "pipelines.gateways.measures")
        job = json.dumps(job_of(self._measure, self._watch, self._home)).encode()
        with TemporaryFile() as given:  # unlike a pipe, it is never full, and nobody waits at its end
            given.write(job)
            given.seek(0)
            self._process = subprocess.Popen(
                command, stdin=given, stdout=self._said, stderr=subprocess.DEVNULL
            )

    def _take(self, process: subprocess.Popen) -> None:
        self._process = None
        self._said.seek(0)
        try:
            answer = json.loads(self._said.read())
        except ValueError:
            return self._fail(f"the process that takes {self._measure.name} ended with {process.returncode}")
        if trouble := answer.get("trouble"):
            return self._fail(trouble)
        self._keep({release: Moments(*figures) for release, figures in answer["moments"].items()})

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
