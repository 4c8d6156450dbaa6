"""An A/B by users: intervals that hold while they are watched, and strata that make them narrower."""

import json

import numpy as np
import pandas as pd
import pytest

from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.sample_size import users_for_means, users_watched
from pipelines.core.rollout.stratified import OTHERS, Analysis, stratified

MEANS = {"a": 0.0, "b": 2.0, "c": 5.0, "d": 9.0}


def users(seed: int, count: int, weight: float = 0.5, effect: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    stratum = rng.choice(list(MEANS), count, p=[0.5, 0.3, 0.15, 0.05])
    is_canary = rng.random(count) < weight
    value = pd.Series(stratum).map(MEANS) + rng.normal(0, 1, count) + effect * is_canary
    arm = np.where(is_canary, "canary", "stable")
    return pd.DataFrame({"user": np.arange(count), "arm": arm, "value": value, "stratum": stratum})


def test_watched_intervals_hold_and_strata_make_them_narrower():
    missed, narrower = 0, []
    for seed in range(12):
        frame = users(seed, 4000, weight=0.3, effect=0.1)
        looks = [stratified(frame.head(seen), "value", 0.3) for seen in (500, 1000, 2000, 4000)]
        missed += any(not look.overall.low <= 0.1 <= look.overall.high for look in looks)
        width, plain = (each.high - each.low for each in (looks[-1].overall, looks[-1].unstratified))
        narrower.append(width / plain)
    assert missed <= 2 and np.mean(narrower) < 0.5


def test_an_effect_is_found_over_all_and_in_each_stratum():
    found = stratified(users(0, 20_000, effect=0.5), "spend")
    assert found.overall.low > 0.3 and found.overall.high < 0.7
    assert [each.name for each in found.strata] == list(MEANS) and not found.off_plan
    assert all(each.difference.low > 0 for each in found.strata)
    assert Analysis.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_an_arm_that_got_more_of_the_better_stratum_is_not_better():
    frame = users(1, 20_000)
    kept = (frame["stratum"] != "c") | (frame["arm"] == "canary") | (frame.index % 4 == 0)
    found = stratified(frame[kept], "spend")
    assert found.unstratified.low > 0 and found.overall.low < 0 < found.overall.high
    assert [each.name for each in found.off_plan] == ["c"]


def test_users_that_met_both_and_users_without_a_value_do_not_count():
    frame = users(2, 1000)
    met_both = frame.head(7).assign(arm=np.where(frame.head(7)["arm"] == "canary", "stable", "canary"))
    frame.loc[10:14, "value"] = np.nan
    found = stratified(pd.concat([frame, met_both]), "spend")
    assert (found.users, found.in_both) == (1000 - 7 - 5, 7)


def test_small_strata_are_taken_together_and_few_users_show_nothing():
    assert [each.name for each in stratified(users(3, 1500), "spend").strata] == ["a", OTHERS, "b"]
    few = stratified(users(3, 150), "spend")
    assert few.overall.value is None and [each.name for each in few.strata] == [OTHERS]
    assert stratified(users(3, 0), "spend").users == 0


def test_without_strata_all_users_are_in_one():
    found = stratified(users(4, 2000).drop(columns="stratum"), "spend")
    assert [each.name for each in found.strata] == ["all"] and found.overall == found.unstratified


def test_what_can_not_be_analysed_is_refused():
    with pytest.raises(SettingsInvalid, match="it takes a column arm"):
        stratified(users(0, 10).drop(columns="arm"), "spend")
    with pytest.raises(SettingsInvalid, match="write a fraction such as"):
        stratified(users(0, 10), "spend", 1.0)


def test_an_interval_that_is_watched_takes_more_users():
    once, watched = users_for_means(1, 0.1), users_watched(1, 0.1)
    assert once < watched < 4 * once
    found = [stratified(users(s, watched, effect=0.1), "spend").overall.low > 0 for s in range(10)]
    assert np.mean(found) > 0.6
