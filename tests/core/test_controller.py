"""What a rollout does next: tables of cases, what never happens whatever is seen, and simulated traffic."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.rollout.controller import Decision, State, advance, roll_back, start
from pipelines.core.rollout.guardrails import ErrorRate, Latency, Metric, Predictions, Split
from pipelines.core.rollout.observation import Arm, Moments, Observation
from pipelines.core.rollout.plan import Plan
from pipelines.core.rollout.quantiles import ENDS_MS
from pipelines.core.rollout.strategies import ab, blue_green, canary, in_order, shadow

NAN = float("nan")
ERRORS = (ErrorRate(0.01), Split())
PACE = {"min_requests": 100, "min_seconds": 60.0, "max_seconds": 600.0}
PLAN = canary((0.1, 0.5), ERRORS, **PACE)
START = 1_000_000.0
BEGUN = start(PLAN, START).state


def look(
    share: float = 0.1,
    seconds: float = 60,
    requests: int = 50_000,
    errors: float = 0.001,
    at: float | None = None,
) -> Observation:
    """All of this share of `requests` went to the canary, of which `errors` failed; a thousandth of stable's.
    `at` is what share came, where it isn't the planned one."""
    sent = round(requests * (share if at is None else at))
    stable = Arm(requests - sent, round((requests - sent) / 1000))
    return Observation(seconds, share, stable, Arm(sent, round(sent * errors)))


GOOD = look()
BAD = look(errors=0.1)


def after(seconds: float, observation: Observation, state: State = BEGUN, plan: Plan = PLAN) -> Decision:
    return advance(state, plan, observation, state.since + seconds)


def test_a_rollout_begins_with_its_first_step():
    begun = start(PLAN, START)
    assert (begun.action, begun.state.weight, begun.state.phase) == ("set_weight", 0.1, "running")
    mirrored = start(shadow(0.25), START).state
    assert (mirrored.weight, mirrored.mirrored) == (0, 0.25)


def test_each_proof_leads_to_the_next_step_and_the_last_promotes():
    second = after(60, GOOD)
    assert (second.action, second.state.weight, second.state.since) == ("set_weight", 0.5, START + 60)
    assert second.why.startswith("canary at 10 % did no harm: 0.1 % of 5,000 requests to the canary")
    done = after(60, look(0.5), second.state)
    assert (done.action, done.state.weight, done.state.phase) == ("promote", 1.0, "promoted")
    assert [(each.action, each.weight) for each in done.state.history] == [
        ("set_weight", 0.1), ("set_weight", 0.5), ("promote", 1.0)]  # fmt: skip


@pytest.mark.parametrize(
    "seconds, observation, action, phase, says",
    [
        (1, look(seconds=1, errors=0.1), "roll_back", "rolled_back", "the canary fails more often"),
        (60, BAD, "roll_back", "rolled_back", "the canary fails more often"),
        (1, look(seconds=1, errors=0.1, at=0.3), "roll_back", "rolled_back", "the canary fails more often"),
        (59, look(seconds=59), "hold", "running", "59 of at least 60 seconds have passed"),
        (60, look(seconds=59), "hold", "running", "59 of at least 60 seconds have passed"),
        (60, look(requests=900), "hold", "running", "not certain yet"),
        (60, look(at=0.3), "hold", "held", "traffic does not arrive as planned"),
        (600, look(at=0.3, seconds=600), "roll_back", "rolled_back", "after 600 seconds, of 600 at most"),
        (60, look(requests=0), "hold", "held", "stable has not answered a request yet"),
        (60, look(at=0.0), "hold", "held", "the canary has not answered a request yet"),
        (600, look(at=0.0, seconds=600), "roll_back", "rolled_back", "the canary has not answered"),
        (60, look(at=1.0), "hold", "held", "stable has not answered a request yet"),
        (100, GOOD, "hold", "held", "what is known is of 60 seconds, and 100 have passed"),
        (60, look(seconds=100), "hold", "held", "what is known is of 100 seconds, and 60 have passed"),
        (60, look(seconds=NAN), "hold", "held", "what is known is of nan seconds"),
        (600, GOOD, "roll_back", "rolled_back", "what is known is of 60 seconds, and 600 have passed"),
        (60, look(0.5), "hold", "held", "what is known is of a canary with 50 % of the requests, not 10 %"),
        (600, look(0.5), "roll_back", "rolled_back", "what is known is of a canary with 50 %"),
        (60, look(NAN, at=0.1), "hold", "held", "what is known is of a canary with nan %"),
        (60, replace(GOOD, canary=Arm(5000, NAN)), "hold", "held", "the counts of the canary make no sense"),  # type: ignore
        (60, replace(GOOD, stable=None), "hold", "held", "nothing is known of stable"),
        (60, Observation(60, 0.1, None, None), "hold", "held", "nothing is known of stable"),
        (600, Observation(600, 0.1, None, None), "roll_back", "rolled_back", "nothing is known of stable"),
        (600, look(seconds=600), "set_weight", "running", "canary at 10 % did no harm"),
        (600, look(seconds=600, requests=900), "roll_back", "rolled_back", "it is still uncertain: not"),
    ],
)  # fmt: skip
def test_one_look(seconds, observation, action, phase, says):
    decision = after(seconds, observation)
    assert (decision.action, decision.state.phase) == (action, phase)
    assert says in decision.why, decision.why
    assert action == "hold" or decision.state.history[-1].why == decision.why == decision.state.why
    assert action != "roll_back" or decision.state.weight == decision.state.mirrored == 0


def test_what_was_mended_goes_on():
    held = after(60, look(at=0.3)).state
    assert advance(held, PLAN, look(seconds=70), START + 70).action == "set_weight"


def test_a_canary_that_is_gone_is_waited_for_a_little():
    gone, state = replace(GOOD, canary=None), BEGUN
    assert after(70, gone, after(65, gone, state).state).action == "hold"
    back = after(70, look(at=0.3), after(65, gone, state).state)
    assert back.action == "hold" and after(75, gone, back.state).action == "hold"
    decision = after(75, gone, after(65, gone, state).state)
    assert decision.action == "roll_back" and decision.why.startswith(
        "the canary has been gone for 10 seconds"
    )


def test_a_canary_that_comes_and_goes_is_given_up():
    """Three seconds away, one second there, and again."""
    gone, state, at = replace(GOOD, canary=None), BEGUN, BEGUN.at
    decisions = []
    while not state.is_over and at < BEGUN.at + 60:
        at += 1
        decision = after(at - BEGUN.since, look(at=0.3) if at % 4 == 0 else gone, state)
        state, decisions = decision.state, [*decisions, decision.action]
    assert decisions[-1] == "roll_back" and 15 < len(decisions) < 25
    assert set(decisions[:-1]) == {"hold"}


def test_a_canary_that_was_back_for_as_long_is_waited_for_anew():
    gone, state = replace(GOOD, canary=None), BEGUN
    for seconds, seen in ((61, gone), (69, gone), (70, look(at=0.3)), (79, look(at=0.3)), (80, gone)):
        state = after(seconds, seen, state).state
    assert after(89, gone, state).action == "hold" and after(90, gone, state).action == "roll_back"


def test_where_nothing_is_known_the_canary_is_not_known_to_be_gone():
    dark = Observation(60, 0.1, None, None)
    assert after(90, dark, after(60, dark).state).action == "hold"
    assert after(90, dark, after(60, replace(GOOD, canary=None)).state).action == "roll_back"


def test_a_plan_may_ask_for_no_more_than_the_absence_of_harm():
    lenient = canary((0.1,), ERRORS, prove=(), **PACE)
    begun, unsure = start(lenient, START).state, look(requests=2000)
    assert after(60, unsure).action == "hold"
    assert after(60, unsure, begun, lenient).action == "promote"
    assert after(60, look(requests=900), begun, lenient).why.startswith("not certain yet")
    for bad in (look(at=0.3), replace(unsure, canary=None), look(requests=0)):
        assert after(60, bad, begun, lenient).action == "hold"
    assert after(60, BAD, begun, lenient).action == "roll_back"


def test_the_metric_itself_must_be_known_often_enough():
    metric = Metric("converted", "higher", 0.02, between=(0, 1))
    lenient = canary((0.1,), (metric,), prove=(), **PACE)
    begun = start(lenient, START).state
    for known, action in {50: "hold", 150: "promote"}.items():
        arms = [
            replace(arm, metrics={"converted": Moments(known, known / 5, known / 5)})
            for arm in (GOOD.stable, GOOD.canary)
        ]  # type: ignore
        assert after(60, Observation(60, 0.1, *arms), begun, lenient).action == action


def test_an_experiment_returns_to_stable():
    plan = ab(0.5, ERRORS, **PACE)
    ended = after(60, look(0.5), start(plan, START).state, plan)
    assert (ended.action, ended.state.phase, ended.state.weight) == ("end", "ended", 0)


def test_a_shadow_is_judged_by_copies():
    plan = in_order(["shadow", "blue_green", "full"], ERRORS, **PACE)
    shadowed = after(60, look(0.5), start(plan, START).state, plan)
    assert (shadowed.action, shadowed.state.weight, shadowed.state.mirrored) == ("set_weight", 1, 0)
    flipped = advance(
        shadowed.state, plan, Observation(60, 1.0, Arm(50_000, 50), Arm(50_000, 50)), START + 120
    )
    assert (flipped.action, flipped.state.phase) == ("promote", "promoted")


def test_a_shadow_that_does_harm_is_no_longer_sent_copies():
    plan = shadow(1.0, ERRORS, **PACE)
    state = after(60, look(0.5, errors=0.1), start(plan, START).state, plan).state
    assert (state.phase, state.weight, state.mirrored) == ("rolled_back", 0, 0)


def test_alpha_is_shared_among_steps_and_guardrails():
    assessment = after(60, GOOD).assessment
    assert assessment and [finding.numbers["alpha"] for finding in assessment.findings] == [0.05 / 2 / 2] * 2


def test_a_flip_without_anything_to_compare_with_is_taken_back():
    plan = blue_green(ERRORS, **PACE)
    begun, alone = start(plan, START).state, Observation(600, 1.0, Arm(0, 0), Arm(50_000, 50))
    assert after(599, alone, begun, plan).action == "hold"
    assert after(600, alone, begun, plan).action == "roll_back"


def test_the_same_look_twice_changes_nothing():
    for observation in (GOOD, BAD, look(at=0.3), look(seconds=30), replace(GOOD, canary=None), look(0.5)):
        once = after(60, observation)
        again = advance(once.state, PLAN, observation, START + 60)
        assert again.action == "hold" and again.state == once.state


def test_a_clock_that_goes_backwards_promotes_nothing():
    state = after(50, look(seconds=50)).state
    for now, seconds in ((START - 3600, 60), (START + 55, 60), (START - 3600, -3600), (START + 50, 50)):
        decision = advance(state, PLAN, look(seconds=seconds), now)
        assert decision.action == "hold" and decision.state.at >= state.at
    assert advance(state, PLAN, replace(BAD, seconds=-3600), START - 3600).action == "roll_back"
    back = advance(state, PLAN, look(seconds=-3600), START - 3600).state
    assert advance(back, PLAN, GOOD, START + 60).action == "set_weight"


def test_a_person_may_roll_back_at_any_time():
    for state in (BEGUN, after(60, GOOD).state, after(60, BAD).state):
        decision = roll_back(state, "asked for by ann", START + 61)
        assert (decision.action, decision.state.weight) == ("roll_back", 0)
        assert decision.state.history[-1].why == "asked for by ann"
        assert advance(decision.state, PLAN, GOOD, START + 62).action == "hold"


COUNTS = st.one_of(st.integers(0, 3000), st.just(NAN))
ARMS = st.one_of(
    st.none(),
    st.builds(Arm, COUNTS, COUNTS),
    st.integers(0, 30_000).map(lambda requests: Arm(requests, requests // 1000)),
    st.integers(100, 30_000).map(lambda requests: Arm(requests, requests // 5)),
)
LOOKS = st.tuples(
    st.one_of(st.floats(40, 90), st.floats(-50, 200)),
    st.one_of(st.just(0.0), st.floats(-100, 100)),
    st.one_of(st.none(), st.sampled_from([0.1, 0.5, NAN])),
    st.one_of(st.sampled_from(["good", "good", "good", "bad"]), st.tuples(ARMS, ARMS)),
)
SEEN = st.lists(LOOKS, max_size=30)
TIMELY = st.tuples(st.floats(60, 200), st.just(0.0), st.none(), st.tuples(ARMS, ARMS))
PLANS = st.sampled_from(
    [
        PLAN,
        canary((0.1, 0.5), ERRORS, prove=(), **PACE),
        in_order(["shadow", "ab", "full"], ERRORS[:1], **{**PACE, "min_seconds": 5.0}),
        ab(0.5, ERRORS, **PACE),
    ]
)


def played(plan: Plan, seen: list, resumed: bool = False) -> Iterator[tuple[State, Observation, Decision]]:
    """State before, look and decision. What is seen is how far the clock moved, how far counts are off it, a
    share unless it is the planned one, and the arms."""
    state, now = start(plan, START).state, START
    for moved, offset, share, arms in seen:
        now += moved
        planned = plan.steps[state.step].canary_share
        if isinstance(arms, str):
            like = look(planned, errors=0.001 if arms == "good" else 0.3)
            arms = like.stable, like.canary
        observation = Observation(now - state.since + offset, share or planned, *arms)
        if resumed:
            state = State.from_dict(json.loads(json.dumps(state.to_dict())))
            plan = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
        decision = advance(state, plan, observation, now)
        yield state, observation, decision
        state = decision.state


def harmed(observation: Observation) -> bool:
    arms = (observation.stable, observation.canary)
    return all(arm and arm.requests > 1000 and arm.errors <= arm.requests for arm in arms) and (
        arms[1].errors / arms[1].requests > arms[0].errors / arms[0].requests + 0.15
    )


@settings(max_examples=300, deadline=None)
@given(PLANS, SEEN)
def test_whatever_is_seen(plan, seen):
    for before, observation, decision in played(plan, seen):
        state = decision.state
        assert (
            state.weight <= plan.steps[state.step].users and state.mirrored <= plan.steps[state.step].mirrored
        )
        assert state.at >= before.at and len(state.history) - len(before.history) == (
            decision.action != "hold"
        )
        again = advance(state, plan, observation, state.at)
        assert again.action == "hold" and again.state == state
        if before.is_over:
            assert state == before
        if decision.action in ("set_weight", "promote", "end"):
            arms = (observation.stable, observation.canary)
            assert all(arm is not None and arm.requests >= 100 and arm.errors <= arm.requests for arm in arms)
            assert not harmed(observation) and decision.assessment is not None
            assert state.at - before.since >= plan.steps[before.step].min_seconds
        elif not state.is_over:
            assert state.seconds < plan.steps[state.step].max_seconds
            assert decision.assessment is None or not harmed(observation)


@settings(max_examples=100, deadline=None)
@given(PLANS, SEEN)
def test_resuming_is_as_if_it_had_never_stopped(plan, seen):
    straight, resumed = ([each for *_, each in played(plan, seen, again)] for again in (False, True))
    assert repr(straight) == repr(resumed)


@settings(max_examples=100, deadline=None)
@given(PLANS, st.lists(TIMELY, min_size=40, max_size=40))
def test_it_is_over_by_the_deadline(plan, seen):
    states = [decision.state for *_, decision in played(plan, seen)]
    over = next(state for state in states if state.is_over)
    assert over.at - START <= plan.max_seconds + 200 * len(plan.steps)
    assert over.weight in ((1.0,) if over.phase == "promoted" else (0.0,))


WATCHED = (ErrorRate(0.01), Latency(0.99, 1.5), Predictions(0.1), Split())
SIMULATED = canary((0.1, 0.5), WATCHED, min_requests=500, min_seconds=30, max_seconds=900)


class Traffic:
    """200 requests a second of a step, split by weight, counted as they come."""

    def __init__(self, seed: int, weight: float, errors: float, slower: float, shift: float) -> None:
        self.rng, self.weight, self.worse = np.random.default_rng(seed), weight, (errors, slower, shift)
        self.counted = [[0, 0, np.zeros(len(ENDS_MS), int), np.zeros(10, int)] for _ in range(2)]

    def after(self, seconds: int) -> list[Arm]:
        for counted, part, worse in zip(
            self.counted, (1 - self.weight, self.weight), ((0.002, 1.0, 0.0), self.worse), strict=True
        ):
            size = self.rng.poisson(200 * part * seconds)
            counted[0] += size
            counted[1] += self.rng.binomial(size, worse[0])
            counted[2] += np.histogram(worse[1] * self.rng.lognormal(3, 0.6, size), (0, *ENDS_MS))[0]
            counted[3] += np.histogram(np.clip(self.rng.random(size) + worse[2], 0, 1), 10, (0, 1))[0]
        return [
            Arm(requests, errors, list(zip(ENDS_MS, late.cumsum().tolist(), strict=True)), answers.tolist())
            for requests, errors, late, answers in self.counted
        ]


def simulated(seed: int, errors: float = 0.002, slower: float = 1.0, shift: float = 0.0) -> State:
    """A rollout that is looked at every two seconds, until it is over."""
    state, now, traffic, since = start(SIMULATED, START).state, START, None, None
    while not state.is_over:
        if since != state.since:
            since, traffic = state.since, Traffic(seed, state.weight, errors, slower, shift)
        now += 2
        arms = traffic.after(2)  # type: ignore
        state = advance(state, SIMULATED, Observation(now - since, state.weight, *arms), now).state
    return state


@pytest.mark.parametrize("seed", range(3))
def test_a_release_as_good_as_stable_is_promoted(seed):
    state = simulated(seed)
    assert state.phase == "promoted", state.why
    assert state.at - START < SIMULATED.max_seconds


@pytest.mark.parametrize(
    "worse, says",
    [
        ({"errors": 0.05}, "the canary fails more often"),
        ({"slower": 3.0}, "the canary is slower"),
        ({"shift": 0.3}, "the canary answers differently"),
    ],
    ids=str,
)
def test_a_worse_release_is_rolled_back_from_its_first_step(worse, says):
    state = simulated(1, **worse)
    assert (state.phase, state.step) == ("rolled_back", 0) and says in state.why
    assert state.at - START <= 45
