"""One plan, twice: the same release is rolled out as processes and then in a container, and taken back each
time, while users ask for predictions and what serves them is killed. All parts are real.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count

import httpx
import psutil

from pipelines.core.release import Release
from pipelines.core.rollout.guardrails import ErrorRate, Split
from pipelines.core.rollout.strategies import canary
from pipelines.gateways.deployments import Deployments
from tests.bentos.tiny import ROW
from tests.until import until

CLIENTS, PAUSE_SECONDS, USERS = 12, 0.1, 500
PLAN = canary((0.5,), (ErrorRate(0.1), Split(0.5)), min_requests=100, min_seconds=2.0, max_seconds=90.0)


@dataclass
class Asked:
    """What users got: of each answer the release, and what failed."""

    releases: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def roll_out_twice(deployments: Deployments, stable: Release, new: Release, image: str) -> list[Asked]:
    """Each time up to production and back to `stable`, which is on standby meanwhile and serves on."""
    deployments.take_over(stable)
    return [_there_and_back(deployments, each) for each in (new, replace(new, image=image))]


def _there_and_back(deployments: Deployments, release: Release) -> Asked:
    standing = deployments.ledger.standing
    with _users(deployments.router.address) as asked:
        deployments.begin(release, PLAN, {"standby_seconds": 600})
        _kill_service(deployments, release)
        until(lambda: standing(release.model).rollouts[-1].outcome)
        assert standing(release.model).production == release
        time.sleep(0.5)  # the new release has all users
        deployments.roll_back(release.model, "it is to be so")
        time.sleep(0.5)  # the former one has them again
    assert release.process not in deployments.processes.states()
    return asked


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


@contextmanager
def _users(address: str) -> Iterator[Asked]:
    """Ask while the block runs."""
    asked, over = Asked(), threading.Event()
    threads = [threading.Thread(target=_ask, args=(address, each, asked, over)) for each in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _ask(address: str, first: int, asked: Asked, over: threading.Event) -> None:
    with httpx.Client(base_url=address, timeout=30) as client:
        for turn in count(first, CLIENTS):
            if over.wait(PAUSE_SECONDS):
                return
            try:
                headers = {"x-user-id": f"user-{turn % USERS}"}
                answer = client.post("/predict", json={"rows": [ROW]}, headers=headers).raise_for_status()
                asked.releases.append(answer.headers["x-release-id"])
            except httpx.HTTPError as error:
                asked.failures.append(repr(error))
