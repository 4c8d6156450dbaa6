"""Calibration error by hand and by simulation; what it sees where AUC is blind."""

import numpy as np
import pytest

from pipelines.core.auc import auc
from pipelines.core.evaluate import shift
from pipelines.core.reliability import calibration_rise, expected_calibration_error


def _calibrated(seed: int, rows: int, sharpness: float = 1.0):
    """Labels drawn by their probability: calibrated, but as far as `sharpness` exaggerates the logit."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=rows)
    labels = rng.random(rows) < _sigmoid(logits)
    return labels.astype(int), logits * sharpness, rng


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def test_the_error_is_the_mean_distance_over_bins_of_equal_mass():
    probabilities = np.array([0.1, 0.2, 0.6, 0.8])
    labels = np.array([0, 1, 1, 0])
    assert expected_calibration_error(labels, probabilities, bins=2) == pytest.approx((0.7 + 0.4) / 4)
    assert expected_calibration_error(labels, probabilities, bins=1) == pytest.approx(0.3 / 4)
    assert expected_calibration_error(labels, probabilities, bins=4) == pytest.approx(
        (0.1 + 0.8 + 0.4 + 0.8) / 4
    )


def test_one_and_two_columns_are_the_same_and_more_are_judged_by_the_top_class():
    labels, logits, _ = _calibrated(0, 500)
    chances = _sigmoid(logits)
    expected = expected_calibration_error(labels, chances)
    assert expected_calibration_error(labels, chances[:, None]) == expected
    assert expected_calibration_error(labels, np.column_stack([1 - chances, chances])) == expected
    sure = np.tile([0.7, 0.2, 0.1], (10, 1))
    assert expected_calibration_error(np.repeat([0, 1, 2], [7, 2, 1]), sure) == pytest.approx(0)
    assert expected_calibration_error(np.zeros(10), sure) == pytest.approx(0.3)


def test_equal_probabilities_share_a_bin_so_the_order_of_rows_means_nothing():
    labels = np.repeat([0, 1], 500)
    assert expected_calibration_error(labels, np.full(1000, 0.5)) == pytest.approx(0)
    coarse = np.tile([0.25, 0.75], 500)
    truth = np.where(np.arange(1000) // 2 % 4 == 0, coarse < 0.5, coarse > 0.5).astype(int)
    shuffled = np.random.default_rng(0).permutation(1000)
    assert expected_calibration_error(truth, coarse) == pytest.approx(0)
    assert expected_calibration_error(truth[shuffled], coarse[shuffled]) == pytest.approx(0)


def test_the_error_of_calibrated_probabilities_vanishes_with_rows():
    labels, logits, _ = _calibrated(1, 200_000)
    assert expected_calibration_error(labels, _sigmoid(logits)) < 0.005


def test_a_ruined_calibration_that_auc_hides_is_seen():
    """What "Distribution" calibration does to INT8: every answer moves, no two change places."""
    labels, logits, _ = _calibrated(2, 4000)
    before, after = _sigmoid(logits), _sigmoid(logits) ** 4
    assert auc(labels, after) == auc(labels, before)
    assert shift(before, after, "probability", 0.5).mean > 0.2
    rise = calibration_rise(labels, before, after)
    assert rise.floor(0.95) > 0.2
    assert rise.drop == pytest.approx(
        expected_calibration_error(labels, after) - expected_calibration_error(labels, before)
    )


def test_the_same_probabilities_do_not_rise():
    labels, logits, _ = _calibrated(3, 1000)
    rise = calibration_rise(labels, _sigmoid(logits), _sigmoid(logits))
    assert (rise.drop, rise.error) == (0, 0)


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_candidates_as_calibrated_are_accused_at_most_alpha_often(noise):
    accused = 0
    for seed in range(200):
        labels, logits, rng = _calibrated(seed, 1000)
        ours, theirs = (_sigmoid(logits + noise * rng.normal(size=1000)) for _ in range(2))
        accused += calibration_rise(labels, theirs, ours).floor(0.95) > 0
    assert accused / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_the_error_of_the_rise_is_the_spread_that_is_seen():
    rises = []
    for seed in range(100):
        labels, logits, _ = _calibrated(seed, 4000)
        rises.append(calibration_rise(labels, _sigmoid(logits), _sigmoid(logits * 2)))
    assert np.mean([rise.error for rise in rises]) == pytest.approx(np.std([r.drop for r in rises]), rel=0.2)
