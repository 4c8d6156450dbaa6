"""Which arm has to answer for a request, and what is counted of it."""

import math

import pytest

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.counting import ArmTally, Rises, count, whose
from pipelines.core.rollout.observation import ArmName
from pipelines.core.rollout.routes import Target
from pipelines.core.rollout.watch import DAY_SECONDS, Measure, Watch

RELEASES: dict[str, ArmName] = {"v3": "stable", "v4": "canary"}
WATCH = Watch("churn", "canary", "churn/17/0", Target("v3", 3001), Target("v4", 3002), since=1e9)


def line(**others) -> dict:
    given = {"arm": "canary", "release": "v4", "status": 200, "flags": "-", "us": 1500, "attempts": 1}
    return {**given, "at": "1000.25", "method": "POST", "forced": None, **others}


SUCCESS, FAILURE, NOTHING = ("canary", "succeeded"), ("canary", "failed"), None


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({}, SUCCESS),
        ({"arm": "stable", "release": "v3"}, ("stable", "succeeded")),
        ({"status": 500}, FAILURE),
        ({"status": 504}, FAILURE),
        ({"status": 429}, FAILURE),
        ({"status": 0, "release": None, "flags": "UPE"}, FAILURE),
        ({"status": None, "release": None}, FAILURE),
        # the router's own answer for the canary
        ({"status": 503, "release": None, "flags": "UF,URX", "attempts": 3}, FAILURE),
        ({"status": 503, "release": None, "flags": "UO", "attempts": None}, FAILURE),
        ({"status": 504, "release": None, "flags": "UT"}, FAILURE),
        # mistakes of clients, and what says nothing
        ({"status": 400}, NOTHING),
        ({"status": 413, "release": None}, NOTHING),
        ({"status": 401, "release": None, "arm": None}, NOTHING),
        ({"status": 429, "release": None, "flags": "RL"}, NOTHING),
        ({"status": 0, "release": None, "flags": "DC"}, NOTHING),
        ({"status": 503, "release": None, "flags": "UF,DC"}, NOTHING),
        ({"method": "GET"}, NOTHING),
        ({"forced": "canary"}, NOTHING),
        ({"arm": None, "release": None, "status": 404}, NOTHING),
        # others stood in
        ({"release": "v3", "attempts": 2}, ("canary", "broke_off")),
        ({"release": "v3", "attempts": 2, "status": 400}, ("canary", "broke_off")),
        ({"release": "v3"}, NOTHING),
        ({"arm": "stable", "attempts": 2}, ("stable", "broke_off")),
        ({"arm": "stable"}, NOTHING),
        ({"release": "v2", "attempts": 2}, NOTHING),
        ({"attempts": 2}, SUCCESS),
    ],
)
def test_whose_a_request_is_and_whether_it_failed(others, said):
    assert whose(line(**others), RELEASES) == said


def test_latencies_are_of_successes_by_ascending_ends():
    tallies: dict[ArmName, ArmTally] = {"stable": ArmTally(), "canary": ArmTally()}
    times = [50, 100, 101, 1500, 99e6, 200e6]
    lines = [*(line(us=us) for us in times), line(us=None), line(us=7, status=500), line(status=400)]
    count(lines, RELEASES, tallies)
    arm = tallies["canary"].arm()
    assert (arm.requests, arm.errors) == (8, 1)
    ends, counts = zip(*arm.latencies, strict=True)
    assert (ends[0], ends[-1]) == (0.1, math.inf)
    assert (counts[0], counts[1], counts[-2], counts[-1]) == (2, 3, 5, 6)
    assert dict(arm.latencies)[min(end for end in ends if end >= 1.5)] == 4
    assert tallies["stable"].arm().requests == 0


def counted(*lines: dict, one_by_one: bool = False) -> tuple[int, int]:
    """Requests and errors of the canary, by its tally."""
    tallies: dict[ArmName, ArmTally] = {"stable": ArmTally(), "canary": ArmTally()}
    for piece in ([each] for each in lines) if one_by_one else [lines]:
        count(piece, RELEASES, tallies)
    arm = tallies["canary"].arm()
    return arm.requests, arm.errors


def broke_off(at: float) -> dict:
    return line(release="v3", attempts=2, at=str(at))


def test_requests_that_broke_off_together_are_one_failure():
    dying = [line(), *(broke_off(at) for at in (10, 9.5, 8, 11.9)), line(at="15"), line(at="16")]
    assert counted(*dying) == (4, 1)
    assert counted(*dying, one_by_one=True) == (4, 1), "in whatever pieces the log is read"
    others = [line(arm="stable", release="v3"), line(status=400), line(status=500)]
    assert counted(broke_off(10), others[0], broke_off(10.1), others[1], broke_off(10.2)) == (1, 1)
    assert counted(broke_off(10), others[2], broke_off(10.1)) == (2, 2)


def test_what_breaks_off_again_and_again_is_counted_again():
    assert counted(broke_off(10), line(at="10.1"), broke_off(10.2)) == (3, 2), "it had answered meanwhile"
    assert counted(*(broke_off(10 + at / 10) for at in range(100))) == (5, 5), "it never comes back"


def test_what_was_answered_with_an_error_is_counted_each_time():
    refused = line(release=None, status=503, flags="UF", attempts=3)
    assert counted(*[line(status=500)] * 7) == counted(*[refused] * 7) == (7, 7)


def test_an_arm_only_grows_and_one_without_answers_has_no_predictions():
    tally = ArmTally(bins=3)
    assert tally.arm().predictions == ()
    tally.answered([0, 0, 0])
    assert tally.arm().predictions == ()
    for _ in range(2):
        tally.answered([1, 0, 2])
    assert tally.arm().predictions == [2, 0, 4]
    assert tally.arm(with_predictions=False).predictions == ()


def test_where_a_counter_fell_all_go_on_from_zero():
    rises = Rises()
    seen = [rises.see({"ok": value})["ok"] for value in (100, 100, 107, 3, 3, 5)]
    assert seen == [0, 0, 7, 10, 10, 12]
    assert rises.see({"ok": 5, "failed": 4}) == {"ok": 12, "failed": 0}
    assert rises.see({"ok": 6, "failed": 1}) == {"ok": 18, "failed": 1}


def test_stable_counts_from_before_a_flip():
    assert WATCH.span("stable") == WATCH.span("canary") == (1e9, math.inf)
    flipped = Watch("churn", "blue_green", "churn/17/1", WATCH.stable, WATCH.canary, since=1e9)
    assert flipped.span("stable") == (1e9 - DAY_SECONDS, 1e9)
    assert flipped.span("canary") == (1e9, math.inf)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "write one"),
        ({"sql": "select 1", "function": "a:b"}, "write one"),
        ({"function": "os.path"}, "package.module:name"),
        ({"sql": "select 1", "files": {"predictions": "x.csv"}}, "not predictions"),
        ({"sql": "select 1", "files": {"a b": "x.csv"}}, "letters, digits"),
        ({"sql": "select 1", "every_seconds": 0}, "above 0"),
    ],
)
def test_a_measure_that_cannot_be_is_refused(given, said):
    with pytest.raises(SettingsInvalid, match=said):
        Measure("revenue", **given)
