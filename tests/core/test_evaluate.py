"""AUC, its paired loss, and how answers move: against scikit-learn, simulation and cases by hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipelines.core.evaluate import auc_drop, auc_interval, batch_shift, predict, shift


class Doubles:
    """Answers twice its input."""

    def run(self, feeds):
        return {"y": feeds["x"] * 2}


class SeesItsMates:
    """Answers relative to the largest value in the batch, as dynamic INT8 does in effect."""

    def run(self, feeds):
        return {"y": feeds["x"] / feeds["x"].max()}


def _scores(seed: int, rows: int = 4000):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    return labels, labels * 0.8 + rng.normal(size=rows)


def test_auc_equals_scikit_learns_ties_included():
    labels, scores = _scores(0)
    for values in (scores, scores.round(1), scores.round(0)):
        assert auc_interval(labels, values)[0] == pytest.approx(roc_auc_score(labels, values))


def test_interval_covers_the_true_auc_about_as_often_as_it_says():
    truth = 0.7141962  # Φ(0.8 / √2) for unit normals 0.8 apart
    covered = [low <= truth <= high for _, low, high in (auc_interval(*_scores(s, 800)) for s in range(400))]
    assert 0.92 <= np.mean(covered) <= 0.98


def test_equal_scores_lose_nothing_and_the_bound_is_tight():
    labels, scores = _scores(1)
    assert auc_drop(labels, scores, scores, 0.95) == (0.0, 0.0)


def test_paired_bound_is_far_tighter_than_the_intervals():
    labels, scores = _scores(2)
    nearly = scores + np.random.default_rng(3).normal(size=len(scores)) * 0.02
    drop, bound = auc_drop(labels, scores, nearly, 0.95)
    _, low, high = auc_interval(labels, scores)
    assert 0 < bound - drop < (high - low) / 10


def test_a_worse_model_shows_its_loss():
    labels, scores = _scores(4)
    worse = scores + np.random.default_rng(5).normal(size=len(scores))
    drop, bound = auc_drop(labels, scores, worse, 0.95)
    assert bound > drop > 0.02


def test_shift_counts_moves_and_flips():
    moved = shift(np.array([0.4, 0.6, 0.2]), np.array([0.5, 0.6, 0.1]))
    assert (moved.mean, moved.max, moved.flips) == (pytest.approx(0.2 / 3), pytest.approx(0.1), 1)


@pytest.mark.parametrize("batch_rows", [1, 3, 7, 100])
def test_predict_keeps_order_at_any_batch_size(batch_rows):
    values = np.arange(7.0)
    assert (predict(Doubles(), {"x": values}, batch_rows)["y"] == values * 2).all()


def test_batch_shift_sees_an_answer_that_depends_on_its_mates():
    feeds = {"x": np.arange(1.0, 300.0)}
    assert batch_shift(Doubles(), feeds, "y") == 0
    assert batch_shift(SeesItsMates(), feeds, "y") > 0.9
