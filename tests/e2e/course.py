"""A rollout from its first step to production and back, a flip, and a release that fails, while users ask on
schedule and processes are killed: the real router, supervisor, controller and ledger, around services as
small as can be.
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import psutil

from pipelines.core.home import Home
from pipelines.core.rollout.guardrails import ErrorRate, Split
from pipelines.core.rollout.strategies import blue_green, canary
from pipelines.gateways.deployments import CONTROLLER, Deployments
from pipelines.gateways.envoy import Envoy
from pipelines.gateways.ledger import open_ledger
from pipelines.gateways.processes import Command, Supervisor
from pipelines.gateways.services import free_port
from tests.e2e.users import Answer, Users
from tests.gateways.test_deployments import ScriptStore, release
from tests.until import until

GUARDRAILS = (ErrorRate(0.1), Split(0.5))
PACE = {"min_requests": 150, "min_seconds": 2.0, "max_seconds": 45.0}


@dataclass
class Course:
    """What was done when, in seconds since the epoch, and what the users got."""

    users: Users
    deployments: Deployments
    times: dict[str, float] = field(default_factory=dict)

    def between(self, begin: str, end: str) -> list[Answer]:
        return [each for each in self.users.answers if self.times[begin] <= each.at < self.times[end]]

    @property
    def failed(self) -> list:
        """What was not answered well, but by the release that fails by itself."""
        return self.users.failed(bad="r4")

    @property
    def met_harm(self) -> int:
        """Answers of the release that fails."""
        return sum(each.release == "r4" for each in self.users.answers)

    @property
    def seconds_to_zero(self) -> float:
        """From when harm was seen to the last answer of the release that does it."""
        last = max(each.at + each.seconds for each in self.users.answers if each.release == "r4")
        return last - self.times["detected"]

    def moved_back(self) -> set[str]:
        """Users who got the canary and then stable, while the canary was there."""
        moved, joined = set(), set()
        for each in self.between("begun", "promoted"):
            away = self.times["canary killed"] <= each.at < self.times["canary back"]
            joined |= {each.user} if each.release == "r2" else set()
            moved |= {each.user} if each.release == "r1" and each.user in joined and not away else set()
        return moved


def run_course(root: Path, rps: float, at_least: int) -> Course:
    """Take r2 from a tenth of the users to production and back, then flip to r3; meanwhile kill the canary,
    the controller and what serves."""
    home, port = Home(root), free_port()
    env = {"SEATRIAL_HOME": str(root), "SEATRIAL_PORT": str(port)}
    lead = Command((sys.executable, "-m", "pipelines.controller"), env)
    processes, ledger = Supervisor(home), open_ledger(None, home)
    deployments = Deployments(processes, Envoy(home, processes, port), ScriptStore(), ledger, controller=lead)
    try:
        deployments.take_over(release("r1", mode="warms"))
        with Users(port, rps, at_least) as users:
            course = Course(users, deployments)
            _canary(course)
            _flip(course)
            _harm(course)
        return course
    finally:
        deployments.down()


def _canary(course: Course) -> None:
    deployments, times = course.deployments, course.times
    began = deployments.begin(
        release("r2", mode="warms"), canary((0.1, 0.5), GUARDRAILS, **PACE), {"standby_seconds": 600}
    )
    times["begun"] = time.time()
    time.sleep(0.5)  # some users have met the canary
    _kill(course, "churn-r2", "canary killed")
    times["canary back"] = time.time() + 1.0  # what was on its way has arrived
    until(lambda: deployments.ledger.standing("churn").rollouts[-1].state.step == 1)
    times["half"] = time.time()
    _kill(course, CONTROLLER, "controller killed")
    until(lambda: deployments.ledger.standing("churn").rollouts[-1].outcome)
    times["promoted"] = time.time()
    assert deployments.ledger.standing("churn").rollouts[-1].number == began.number
    time.sleep(0.5)  # the new release has all users
    deployments.roll_back("churn", "the course says so")
    times["restored"] = time.time()


def _flip(course: Course) -> None:
    deployments, times = course.deployments, course.times
    time.sleep(0.5)  # the former release has all users again
    deployments.begin(release("r3", mode="warms"), blue_green(GUARDRAILS, **PACE), {"standby_seconds": 600})
    times["flipped"] = time.time()
    _kill(course, "churn-r1", "stable killed")
    until(lambda: deployments.ledger.standing("churn").rollouts[-1].outcome)
    times["promoted again"] = time.time()
    _kill(course, "churn-r3", "production killed")
    times["over"] = time.time()


def _harm(course: Course) -> None:
    deployments, times = course.deployments, course.times
    deployments.begin(release("r4", mode="fails"), canary((0.1, 0.5), GUARDRAILS, **PACE), {})
    times["failing"] = time.time()
    until(lambda: deployments.ledger.standing("churn").rollouts[-1].outcome)
    times["detected"] = deployments.ledger.standing("churn").rollouts[-1].state.at
    time.sleep(1.0)  # whoever is still sent there would be seen


def _kill(course: Course, process: str, said: str) -> None:
    """With SIGKILL, and wait until another is there in its place, ready and known to be."""
    killed = _process(course, process)
    assert killed is not None
    course.times[said] = time.time()
    killed.kill()
    until(lambda: (now := _process(course, process)) and now.pid != killed.pid)
    if process != CONTROLLER:
        release_id = process.partition("-")[2]
        until(lambda: _is_back(course.deployments, release_id))


def _process(course: Course, name: str) -> psutil.Process | None:
    found = (each for each in psutil.process_iter(["cmdline"]) if _runs(each, course, name))
    return next(found, None)


def _runs(process: psutil.Process, course: Course, name: str) -> bool:
    line = process.info["cmdline"] or []
    if name == CONTROLLER:
        home = course.deployments.ledger.where
        return "pipelines.controller" in line and process.environ().get("SEATRIAL_HOME", "?") in home
    release_id = name.partition("-")[2]
    ports = {
        str(each.port) for route in course.deployments.router.routes().values() for each in route.targets
    }
    return release_id in line and bool(ports & set(line))


def _is_back(deployments: Deployments, release_id: str) -> bool:
    targets = next(iter(deployments.router.routes().values())).targets
    (target,) = (each for each in targets if each.release_id == release_id)
    try:
        urlopen(f"http://127.0.0.1:{target.port}/readyz", timeout=5).close()
    except OSError:
        return False
    return deployments.router.healthy(target)
