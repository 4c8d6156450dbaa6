"""How many users an experiment takes."""

import numpy as np
import pytest

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.guardrails import Metric
from pipelines.core.rollout.observation import Moments
from pipelines.core.rollout.sample_size import (
    users_for_means,
    users_for_metric,
    users_for_rates,
    users_to_show,
    users_watched,
)


def test_sample_sizes_are_those_of_the_books():
    assert users_for_rates(0.10, 0.02) == pytest.approx(2 * 3839, abs=2)
    assert users_for_means(1.0, 0.5) == pytest.approx(2 * 62.8, abs=1)
    assert users_for_means(30.0, 1.0) == pytest.approx(2 * 16 * 30**2, rel=0.02)
    assert users_for_means(1, 0.1, weight=0.1) > 2.5 * users_for_means(1, 0.1)


def test_a_test_of_that_size_has_its_power():
    rng, users = np.random.default_rng(1), users_for_rates(0.1, -0.02, weight=0.2)
    canary = round(0.2 * users)
    rates = (
        rng.binomial(users - canary, 0.1, 4000) / (users - canary),
        rng.binomial(canary, 0.08, 4000) / canary,
    )
    spread = sum(
        rate * (1 - rate) / count for rate, count in zip(rates, (users - canary, canary), strict=True)
    )
    found = np.abs(rates[1] - rates[0]) > 1.96 * np.sqrt(spread)
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_the_largest_possible_effect_is_the_disagreement():
    assert users_to_show(0.04, 0.5) == users_for_rates(0.5, 0.04)
    assert users_to_show(0.04, 0.02) == users_for_rates(0.02, 0.04)
    assert users_to_show(0.0, 0.5) is None


def test_a_metric_takes_as_many_as_its_past_says_or_else_as_its_limits_leave():
    bounded = Metric("late", "lower", 0.02, (0.0, 1.0))
    worst = users_for_metric(bounded, None, 0.5, 0.01)
    assert worst == users_watched(0.5, 0.02, 0.5, 0.02)
    rates = {count: Moments(count, 0.1 * count, 0.1 * count) for count in (99, 1000)}
    assert users_for_metric(bounded, rates[99], 0.5, 0.01) == worst, "too few to know"
    known = users_for_metric(bounded, rates[1000], 0.5, 0.01)
    assert known == pytest.approx(users_watched(0.3, 0.02, 0.5, 0.02), rel=0.01)
    assert users_for_metric(Metric("spend", "higher", 1.0), None, 0.5, 0.01) is None
    assert users_for_metric(Metric("late", "lower", 0.0, (0.0, 1.0)), rates[1000], 0.5, 0.01) is None
    assert users_for_metric(bounded, Moments(1000, 0.0, 0.0), 0.5, 0.01) == worst, "never seen is not never"


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda: users_for_rates(1.2, 0.1), "rate is 1.2; write a fraction such as 0.1."),
        (lambda: users_for_rates(0.1, -0.2), "change is -0.2; 0.1 can't change by so much."),
        (lambda: users_for_rates(0.1, 0), "change is 0; write the least change that matters."),
        (lambda: users_for_means(0, 1), "deviation is 0; write a standard deviation above 0."),
        (lambda: users_for_means(1, 1, weight=1), "weight is 1; write a fraction above 0 and below 1."),
        (lambda: users_for_means(1, 1, power=80), "power is 80; write a fraction above 0 and below 1."),
    ],
)
def test_impossible_questions_are_refused(wrong, says):
    with pytest.raises(SettingsInvalid) as refused:
        wrong()
    assert str(refused.value) == says
