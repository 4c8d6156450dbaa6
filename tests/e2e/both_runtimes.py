"""One plan, twice: the same release is rolled out as processes and then in a container, and taken back each
time, while users ask for predictions and what serves them is killed. All parts are real.
"""

import json
import time
from contextlib import suppress
from dataclasses import replace

import psutil

from pipelines.core.release import Release
from pipelines.core.rollout.guardrails import ErrorRate, Split
from pipelines.core.rollout.strategies import canary
from pipelines.gateways.deployments import Deployments
from tests.bentos.tiny import ROW
from tests.e2e.users import Users
from tests.until import until

RPS = 120
PLAN = canary((0.5,), (ErrorRate(0.1), Split(0.5)), min_requests=100, min_seconds=2.0, max_seconds=90.0)


def roll_out_twice(deployments: Deployments, stable: Release, new: Release, image: str) -> list[Users]:
    """Each time up to production and back to `stable`, which is on standby meanwhile and serves on."""
    deployments.take_over(stable)
    return [_there_and_back(deployments, each) for each in (new, replace(new, image=image))]


def _there_and_back(deployments: Deployments, release: Release) -> Users:
    standing = deployments.ledger.standing
    port = int(deployments.router.address.rpartition(":")[2])
    with Users(port, RPS, body=json.dumps({"rows": [ROW]}).encode()) as users:
        deployments.begin(release, PLAN, {"standby_seconds": 600})
        _kill_service(deployments, release)
        until(lambda: standing(release.model).rollouts[-1].outcome)
        assert standing(release.model).production == release
        time.sleep(0.5)  # the new release has all users
        deployments.roll_back(release.model, "it is to be so")
        time.sleep(0.5)  # the former one has them again
    assert release.process not in deployments.processes.states()
    return users


def _kill_service(deployments: Deployments, release: Release) -> None:
    """With SIGKILL, and wait until another is there in its place."""
    canary = deployments.router.routes()[release.path].canary
    assert canary
    killed = _serving(canary.port)
    assert killed
    killed.kill()
    until(lambda: _worked_by_another(canary.port, killed))
    until(lambda: deployments.services.is_ready(release, canary) and deployments.router.healthy(canary))


def _worked_by_another(port: int, killed: psutil.Process) -> bool:
    now = _serving(port)
    with suppress(psutil.NoSuchProcess):
        return now is not None and now.pid != killed.pid and bool(now.children())
    return False


def _serving(port: int) -> psutil.Process | None:
    """What runs the service at this port, inside of its container where it has one."""
    found = (each for each in psutil.process_iter(["cmdline", "name"]) if each.info["name"] != "podman")
    return next((each for each in found if f"--port {port}" in " ".join(each.info["cmdline"] or ())), None)
