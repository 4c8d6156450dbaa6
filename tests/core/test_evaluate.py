"""Predictions, decisions, and how answers move: cases by hand."""

import numpy as np
import pytest

from pipelines.core.evaluate import cosines, decisions, predict, shift


class Doubles:
    """Answers twice its input."""

    def run(self, feeds):
        return {"y": feeds["x"] * 2}


@pytest.mark.parametrize("batch_rows", [1, 3, 7, 100])
def test_predict_keeps_order_at_any_batch_size(batch_rows):
    values = np.arange(7.0)
    assert (predict(Doubles(), {"x": values}, batch_rows)["y"] == values * 2).all()


@pytest.mark.parametrize(
    ("predictions", "threshold", "decided"),
    [
        ([0.29, 0.3, 0.31], 0.3, [0, 1, 1]),
        ([[0.29], [0.3]], 0.3, [0, 1]),
        ([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]], 0.25, [1, 1, 1]),
        ([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]], 0.75, [0, 0, 1]),
        ([[2.0, 5.0], [-1.0, -3.0]], 0.5, [1, 0]),
        ([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]], 0.9, [1, 0]),
    ],
)
def test_decisions_go_by_the_threshold_or_the_largest(predictions, threshold, decided):
    assert decisions(np.array(predictions), threshold).tolist() == decided


def test_probabilities_move_by_their_largest_class_and_flip():
    moved = shift(np.array([0.4, 0.6, 0.2]), np.array([0.5, 0.6, 0.1]), "probability", 0.5)
    assert (moved.mean, moved.max) == (pytest.approx(0.2 / 3), pytest.approx(0.1))
    assert (moved.flips, moved.rows, moved.flip_rate) == (1, 3, pytest.approx(1 / 3))
    many = shift(np.array([[0.5, 0.3, 0.2]]), np.array([[0.2, 0.35, 0.45]]), "probability", 0.5)
    assert (many.max, many.flips) == (pytest.approx(0.3), 1)


def test_the_threshold_says_what_flips():
    before, after = np.array([0.2, 0.6]), np.array([0.35, 0.45])
    assert [shift(before, after, "probability", at).flips for at in (0.3, 0.4, 0.5)] == [1, 0, 1]


def test_values_move_in_standard_deviations_of_each_column():
    before = np.array([[0.0, 100.0], [2.0, 300.0]])
    moved = shift(before, before + np.array([[0.0, 50.0], [0.25, 0.0]]), "value", 0.5)
    assert (moved.max, moved.mean, moved.flips) == (pytest.approx(0.5), pytest.approx(0.375), 0)


def test_a_constant_reference_moves_absolutely():
    before = np.full(1000, 0.1, np.float32)
    assert shift(before, before + np.float32(0.5), "value", 0.5).mean == pytest.approx(0.5)


def test_embeddings_turn():
    before = np.array([[1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    after = np.array([[0.0, 2.0], [5.0, 0.0], [-3.0, -4.0]])
    moved = shift(before, after, "embedding", 0.5)
    assert (moved.max, moved.mean, moved.flips) == (pytest.approx(2), pytest.approx(1), 0)


def test_a_zero_vector_is_like_another_one_only():
    assert cosines(np.array([[0.0, 0], [0, 0]]), np.array([[0.0, 0], [1, 0]])).tolist() == [1, 0]
