"""Nobody notices a rollout but those who meet a bad release, and they for a second."""

import pytest

from tests.benchmarks.rollout.course import REQUESTS, course

MAX_SECONDS = 1.5


@pytest.mark.e2e
def test_a_course_of_rollouts():
    (found,) = course(1)["rounds"]
    assert found["requests"] >= REQUESTS
    assert (found["failed"], found["met_unready"], found["moved_back"]) == (0, 0, 0)
    assert found["detection_to_zero_seconds"] <= MAX_SECONDS
