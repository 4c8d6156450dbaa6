"""AUC against scikit-learn; its interval and paired loss against simulation."""

from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipelines.core.auc import auc, auc_interval, auc_loss


def _scores(seed: int, rows: int = 4000, apart: float = 0.8, share: float = 0.5):
    """Scores of unit variance, `apart` for the two labels: the true AUC is Φ(apart / √2)."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(rows) < share * rows).astype(np.int64)
    return labels, labels * apart + rng.normal(size=rows)


def test_auc_equals_scikit_learns_ties_included():
    labels, scores = _scores(0)
    for values in (scores, scores.round(1), scores.round(0)):
        assert auc(labels, values) == pytest.approx(roc_auc_score(labels, values))
        assert auc_interval(labels, values)[0] == pytest.approx(roc_auc_score(labels, values))


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("truth", [0.7, 0.9, 0.97])
def test_interval_covers_the_true_auc_about_as_often_as_it_says(truth, share):
    apart = NormalDist().inv_cdf(truth) * 2**0.5
    found = [auc_interval(*_scores(seed, 500, apart, share)) for seed in range(300)]
    assert 0.91 <= np.mean([low <= truth <= high for _, low, high in found]) <= 0.98


@pytest.mark.parametrize(("sign", "value"), [(1, 1.0), (-1, 0.0)])
def test_a_perfect_order_of_few_rows_is_no_certainty(sign, value):
    labels = np.repeat([0, 1], [40, 20])
    found, low, high = auc_interval(labels, sign * labels)
    assert found == value
    assert high - low == pytest.approx(1 - 0.025 ** (1 / 20))


def test_constant_scores_are_a_coin():
    labels = np.repeat([0, 1], 50)
    assert auc_interval(labels, np.ones(100)) == (0.5, 0.5, 0.5)


def test_equal_scores_lose_nothing():
    labels, scores = _scores(1)
    assert auc_loss(labels, scores, scores) == (0.0, 0.0)


def test_the_paired_error_is_far_smaller_than_the_intervals():
    labels, scores = _scores(2)
    nearly = scores + np.random.default_rng(3).normal(size=len(scores)) * 0.02
    _, error = auc_loss(labels, scores, nearly)
    _, low, high = auc_interval(labels, scores)
    assert 0 < 2 * error < (high - low) / 10


def test_the_paired_error_is_the_spread_that_is_seen():
    drops, errors = [], []
    for seed in range(300):
        labels, scores = _scores(seed, 600, share=0.2)
        worse = scores + np.random.default_rng(seed + 1000).normal(size=600) * 0.5
        drop, error = auc_loss(labels, scores, worse)
        drops.append(drop)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(drops), rel=0.15)
