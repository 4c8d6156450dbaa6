"""A real router and two services behind it, for the tests of one file."""

import pytest

from pipelines.core.home import Home
from pipelines.gateways.envoy import Envoy
from tests.fakes.processes import FakeProcesses
from tests.gateways.envoy_client import free_port, serve


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    made = FakeProcesses(tmp_path_factory.mktemp("logs"))
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def pair(processes):
    return serve(processes, "old", "new")


@pytest.fixture(scope="module")
def shared(processes, tmp_path_factory):
    made = Envoy(Home(tmp_path_factory.mktemp("home")), processes, free_port())
    made.ensure()
    return made


@pytest.fixture
def envoy(shared):
    """Without routes or keys."""
    shared.answer_seconds, shared.keys = 10, {}
    shared.ensure()
    shared.route(dict.fromkeys(shared.routes()))
    return shared
