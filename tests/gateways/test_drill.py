"""The rehearsal of a rollback: a real Envoy, services as small as can be, users who ask all the time."""

from dataclasses import replace
from urllib.request import urlopen

import pytest

from pipelines.core.errors import ServiceFailed
from pipelines.core.home import Home
from pipelines.core.rollout.rehearsal import Drill, judge_drill
from pipelines.core.rollout.routes import Target
from pipelines.gateways.drill import asking, rehearse
from pipelines.gateways.envoy import Envoy
from pipelines.gateways.payloads import Payloads
from pipelines.gateways.services import free_port
from tests.fakes.processes import FakeProcesses
from tests.gateways.envoy_client import serve

AT = "2026-01-01T00:00:00.000+00:00"
DRILL = Drill("r1", "r2", 80, 0, 20, 0.02, 0.05, AT)
ROWS = Payloads("json", "/predict?seconds=0.02", [b'{"rows": [1]}', b'{"rows": [2]}'], [(), ()])


@pytest.fixture
def processes(tmp_path):
    made = FakeProcesses(tmp_path / "logs")
    yield made
    made.shutdown()


@pytest.fixture
def staging(tmp_path, processes):
    """An Envoy beside that of production, and two services: the former release and the new one."""
    targets = serve(processes, "r1", "r2")
    router = Envoy(Home(tmp_path), processes, free_port(), answer_seconds=20, name="envoy.stage")
    router.ensure()
    return router, *targets


@pytest.mark.e2e
def test_a_rollback_is_rehearsed_and_no_request_fails(staging, tmp_path):
    router, stable, canary = staging
    drill = rehearse(router, stable, canary, "/churn", asking(ROWS), AT)
    assert drill.failed == 0 and 0 < (drill.of_canary or 0) < drill.requests
    assert 0 < drill.seconds_to_zero <= drill.seconds_to_answered
    assert router.routes() == {} and router.in_flight(canary) == 0
    drill.save(tmp_path)
    assert Drill.load(tmp_path) == drill

    # The first release of all has nothing to go back to but another process of its own.
    same = replace(stable, port=canary.port)
    alone = rehearse(router, stable, same, "/", lambda url, user: _answers(url), AT)
    assert alone.failed == 0 and alone.requests and alone.of_canary is None
    assert judge_drill(alone, "churn:r1", 60).passed


def test_an_answer_that_is_not_good_is_a_failure():
    assert asking(ROWS)(f"http://127.0.0.1:{free_port()}", "user-1") is None


def _answers(url: str) -> str | None:
    with urlopen(url, timeout=10) as response:
        return response.headers["x-release-id"]


@pytest.mark.e2e
def test_a_drill_whose_release_is_not_there_leaves_no_route(tmp_path, processes):
    router = Envoy(Home(tmp_path), processes, free_port(), answer_seconds=1, name="envoy.stage")
    gone = Target("r2", free_port())
    with pytest.raises(ServiceFailed, match="did not find all healthy"):
        rehearse(router, Target("r1", free_port()), gone, "/", asking(ROWS), AT)
    assert router.routes() == {}


@pytest.mark.parametrize(
    ("drill", "outcome", "says"),
    [
        (DRILL, "pass", "20 ms to the router's confirmation, 50 ms to the last answer of the new release"),
        (replace(DRILL, of_canary=None), "pass", "0 of 80 requests failed"),
        (replace(DRILL, failed=3), "fail", "3 of 80 requests failed"),
        (replace(DRILL, seconds_to_answered=6.0), "fail", "it took 6.00 s, more than 5 s"),
        (replace(DRILL, seconds_to_zero=float("nan")), "fail", "it took nan s"),
        (replace(DRILL, of_canary=0), "inconclusive", "got no request"),
        (replace(DRILL, requests=0, of_canary=None), "inconclusive", "got no request"),
    ],
)
def test_the_gate_of_the_drill(drill, outcome, says):
    verdict = judge_drill(drill, "churn:r2")
    assert (verdict.outcome, verdict.subject) == (outcome, "churn:r2") and says in verdict.why
    assert verdict.numbers["failed"] == drill.failed
