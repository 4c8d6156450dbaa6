"""A month as its real jobs: scored by what is in production, validated, replaced in one step, watched."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from bentos.engines.engine import Engine
from bentos.manifest import MODEL_FILE, sha256
from pipelines.core.contracts import load_contract
from pipelines.core.rows import to_tensors
from tests.assets.world import MONTH, TRUTH, World, rows

SCORED = ["scoring_input", "scores", "drift", "monitoring_report"]
INPUT, LABELS = f"data/scoring/{MONTH}.parquet", f"data/labels/{MONTH}.parquet"


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> World:
    """Version 1 serves, and the month's rows are there."""
    world = World(tmp_path_factory.mktemp("released"))
    assert world.release().success
    world.write(INPUT, rows(7).drop(columns="y"))
    return world


@pytest.fixture
def world(released, tmp_path) -> World:
    """A copy of it for one test."""
    world = World(tmp_path)
    shutil.copytree(released.home.root, world.home.root, dirs_exist_ok=True)
    world.ledger.entries = list(released.ledger.entries)
    return world


def scores_file(world: World):
    return world.home.month("tiny", "scores", MONTH) / "scores.parquet"


def score(world: World, *only: str):
    return world.run("tiny_scoring", MONTH, *only)


def test_a_month_is_scored_by_the_file_in_production(world):
    outcome = score(world)
    assert outcome.success and outcome.made == SCORED
    assert {name: check.passed for name, check in outcome.checks.items()} == {
        "expectations": True,
        "complete": True,
        "no_drift": True,
    }
    found, given = pd.read_parquet(scores_file(world)), rows(7)
    folder = world.home.root / world.ledger.production("tiny").artifact
    engine = Engine(folder / MODEL_FILE, load_contract(folder))
    expected = engine.run(to_tensors(engine.contract, given, "input"))["probability"]
    assert (found["id"] == given["id"]).all() and np.array_equal(found["probability"], expected)
    summary = json.loads(scores_file(world).with_name("summary.json").read_text())
    assert (summary["version"], summary["rows"]) == ("1", 600)
    assert world.notebooks.runs[-1][1]["performance_file"] == ""
    assert world.left_behind() == []


def test_a_rerun_replaces_the_month_and_nothing_else(world):
    score(world, "scoring_input", "scores")
    world.write("data/scoring/2026-02.parquet", rows(8).drop(columns="y"))
    world.run("tiny_scoring", "2026-02", "scoring_input", "scores")
    other = sha256(world.home.month("tiny", "scores", "2026-02") / "scores.parquet")
    before = sha256(scores_file(world))
    assert score(world, "scores").success and sha256(scores_file(world)) == before
    world.write(INPUT, rows(9, count=300).drop(columns="y"))
    assert score(world, "scores").success and len(pd.read_parquet(scores_file(world))) == 300
    assert sha256(world.home.month("tiny", "scores", "2026-02") / "scores.parquet") == other


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda frame: frame.head(0), "the table must hold at least one row"),
        (lambda frame: frame.assign(age=np.nan), "age must never be empty or NaN"),
        (lambda frame: frame.drop(columns="delay"), "delay must be a column"),
        (lambda frame: frame.assign(carrier=3), "carrier must hold strings"),
    ],
    ids=["empty month", "NaN", "missing column", "mistyped column"],
)
def test_a_month_that_breaks_the_contract_is_named_and_the_old_scores_stay(world, damage, says):
    score(world, "scoring_input", "scores")
    before = sha256(scores_file(world))
    world.write(INPUT, damage(rows(7).drop(columns="y")))
    outcome = score(world)
    assert not outcome.success and outcome.made == ["scoring_input"]
    assert f"scoring input: {says}" in outcome.says("expectations")
    alone = score(world, "scores")
    assert "breaks the contract" in alone.failure and INPUT in alone.failure
    assert sha256(scores_file(world)) == before and world.left_behind() == []


def test_a_month_without_a_file_is_named(world):
    world.home.data(INPUT).unlink()
    failure = score(world).failure
    assert f"The scoring input file {world.home.data(INPUT)} does not exist" in failure


def test_nothing_in_production_is_a_sentence(tmp_path):
    world = World(tmp_path)
    world.write(INPUT, rows(7))
    sentence = "No release of tiny is in production; run `seatrial release models:/tiny@candidate` first."
    for asset in SCORED[:2]:
        assert sentence in score(world, asset).failure


def test_drift_is_measured_with_the_release_that_scored(world):
    score(world, "scoring_input", "scores")
    world.register()
    assert world.release(tuple(2 * weight for weight in TRUTH)).success and world.serving == "2"
    assert score(world, "drift").checks["no_drift"].passed


def test_a_model_that_was_altered_in_production_scores_nothing(world):
    score(world, "scoring_input", "scores")
    before = sha256(scores_file(world))
    model = world.home.root / world.ledger.production("tiny").artifact / MODEL_FILE
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    for asset in ("scores", "drift"):
        failure = score(world, asset).failure
        assert f"{model} has changed since" in failure
    assert sha256(scores_file(world)) == before


def test_a_drifted_month_warns_and_is_reported(world):
    world.write(INPUT, rows(7, shift=2.0).drop(columns="y"))
    outcome = score(world)
    check = outcome.checks["no_drift"]
    assert outcome.success and outcome.made == SCORED
    assert not check.passed and check.severity.value == "WARN" and "age" in outcome.says("no_drift")
    assert (world.home.month("tiny", "drift", MONTH) / "drift.html").stat().st_size > 0


def test_too_few_rows_are_inconclusive(world):
    world.write(INPUT, rows(7, count=50).drop(columns="y"))
    outcome = score(world)
    check = outcome.checks["no_drift"]
    assert outcome.success and not check.passed and check.severity.value == "WARN"
    assert outcome.says("no_drift").startswith("inconclusive: 50 current rows of at least 200")


@pytest.mark.parametrize(
    ("labels", "passed", "severity", "says"),
    [
        (rows(7), True, "ERROR", "pass: AUC 0."),
        (rows(7).assign(y=1 - rows(7)["y"]), False, "ERROR", "fail: AUC 0."),
        (rows(7, count=20), False, "WARN", "inconclusive: 20 scores have a label, of at least 200"),
    ],
    ids=["right", "wrong", "few"],
)
def test_performance_once_the_labels_have_arrived(world, labels, passed, severity, says):
    score(world, "scoring_input", "scores")
    world.write(LABELS, labels[["id", "y"]])
    outcome = world.run("tiny_performance", MONTH)
    check = outcome.checks["performance_holds"]
    assert outcome.success and outcome.made == ["performance"]
    assert (check.passed, check.severity.value) == (passed, severity)
    assert outcome.says("performance_holds").startswith(says)


def test_performance_without_labels_or_scores_is_a_sentence(world):
    score(world, "scoring_input", "scores")
    failure = world.run("tiny_performance", MONTH).failure
    assert f"The labels file {world.home.data(LABELS)} does not exist" in failure
    world.write(LABELS, rows(7)[["id", "y"]])
    world.write("data/labels/2026-02.parquet", rows(7)[["id", "y"]])
    world.write("data/scoring/2026-02.parquet", rows(7))
    for job, asset in (("tiny_performance", "performance"), ("tiny_scoring", "drift")):
        failure = world.run(job, "2026-02", asset).failure
        assert "The scores file" in failure and "/2026-02/" in failure and "does not exist" in failure
