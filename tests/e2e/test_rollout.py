"""Rollouts with real parts under scheduled requests: nobody notices, whatever is killed."""

import pytest

from tests.e2e.course import Course, run_course

pytestmark = pytest.mark.e2e

RPS, REQUESTS = 250, 6000


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Course:
    return run_course(tmp_path_factory.mktemp("course"), RPS, REQUESTS)


def test_no_request_fails_and_none_meets_a_service_that_is_not_ready(course):
    assert len(course.users.answers) >= REQUESTS and course.failed == []
    assert not any(each.unready for each in course.users.answers)


def test_users_join_the_canary_and_stay(course):
    assert course.moved_back() == set()
    for begin, end, share in (("canary back", "half", 0.1), ("half", "promoted", 0.5)):
        got = [each.release for each in course.between(begin, end)]
        assert share / 2 < got.count("r2") / len(got) < 2 * share


def test_the_ledger_tells_the_course(course):
    history = course.deployments.ledger.history("churn")
    assert [(each.action, each.release.release_id) for each in history if each.release] == [
        ("deployed", "r1"), ("started", "r2"), ("moved", "r2"), ("promoted", "r2"), ("restored", "r1"),
        ("started", "r3"), ("promoted", "r3"), ("started", "r4"), ("rolled_back", "r4"),
    ]  # fmt: skip
    assert course.deployments.ledger.fault() is None


def test_a_release_that_fails_is_taken_back_before_many_meet_it(course):
    assert 0 < course.met_harm < 100
    assert "the canary fails more often" in course.deployments.ledger.history("churn")[-1].details["why"]


def test_all_users_are_back_once_it_was_said(course):
    assert {each.release for each in course.between("restored", "flipped")} <= {"r1", "r3"}
    answered = [each.release for each in course.between("restored", "flipped")]
    assert "r2" not in answered and answered.count("r1") > 20
