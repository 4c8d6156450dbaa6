"""Answers become one number each, and bins with about equally many."""

import numpy as np
import pytest

from bentos.contract import Contract, Field
from pipelines.core.errors import SettingsInvalid
from pipelines.core.rollout.answers import Answers, answers_of

INPUTS = (Field("x", "float32"),)


def of(*outputs: Field, **tensors) -> Answers:
    return answers_of(Contract(INPUTS, outputs), {name: np.array(each) for name, each in tensors.items()})


def test_bins_hold_about_equally_many_of_the_reference():
    scores = np.random.default_rng(0).random(10_000).astype("float32")
    found = of(Field("score", "float32"), score=scores)
    assert (found.output, found.reduced, len(found.edges)) == ("score", "value", 19)
    assert np.ptp(found.count(scores)) <= 2 and sum(found.count(scores)) == 10_000


def test_what_is_no_number_is_in_no_bin_and_what_is_beyond_is_in_the_last():
    found = Answers("score", (0.25, 0.5))
    assert found.count(np.array([np.nan, 0.1, 0.25, 0.26, 0.5, 7, np.inf, -np.inf])) == [3, 2, 2]
    assert found.count(np.array([])) == [0, 0, 0]


def test_a_value_that_many_answers_have_stays_in_its_bin():
    """A quantized model says 0.5000001 where its source says 0.5."""
    scores = np.concatenate([np.full(500, 0.5), np.linspace(0, 1, 500)])
    found = of(Field("score", "float64"), score=scores)
    assert found.count(np.full(9, 0.5 + 1e-7)) == found.count(np.full(9, 0.5)) == found.count(scores[:9])
    assert len(set(found.edges)) == len(found.edges) < 19


@pytest.mark.parametrize(
    ("labels", "edges"),
    [
        ([0, 1, 2] * 9, (0.5, 1.5)),
        ([1, 1, 1], (1.0,)),
        ([0] + [1] * 999, (0.5,)),
        ([0] * 999 + [1], (0.5,)),
        ([False, True], (0.5,)),
    ],
)
def test_classes_have_a_bin_each(labels, edges):
    assert of(Field("label", "int64"), label=labels).edges == edges


@pytest.mark.parametrize(
    ("outputs", "chosen", "reduced"),
    [
        ((Field("label", "int64"), Field("score", "float32")), "score", "value"),
        ((Field("scores", "float32", (-1, 3)), Field("label", "int64")), "label", "value"),
        ((Field("tokens", "float32", (-1, -1, 2)), Field("scores", "float32", (-1, 3))), "scores", "largest"),
        ((Field("name", "int64", categories=("a",)), Field("each", "float32", (-1, -1))), "each", "mean"),
    ],
)
def test_the_output_that_says_most_in_one_number_is_taken(outputs, chosen, reduced):
    tensors = {each.name: np.arange(8.0).reshape(-1, *[2] * (len(each.shape) - 1)) for each in outputs}
    found = of(*outputs, **tensors)
    assert (found.output, found.reduced) == (chosen, reduced)


def test_vectors_and_matrices_become_a_number():
    scores, nothing = [0.1, 0.7, 0.2], [0.1, np.nan, 0.2]
    starts = np.array([0, 3, 6])
    found = Answers("scores", (0.5,), "largest").numbers(np.array(scores + nothing), starts)
    assert found[0] == 1 and np.isnan(found[1])
    lengths = np.array([2, 3, 6])
    found = Answers("each", (0.5,), "mean").numbers(np.array([9.0, 9, 4, 1, 2, 3]), lengths)
    assert found.tolist() == [4, 2]
    found = of(Field("scores", "float32", (-1, 3)), scores=[scores, scores[::-1], scores])
    assert (found.edges, found.reduced) == ((1.0,), "largest")


@pytest.mark.parametrize("scores", [[], [np.nan], [np.inf]])
def test_a_reference_without_answers_is_refused(scores):
    with pytest.raises(SettingsInvalid, match="score is"):
        of(Field("score", "float32"), score=scores)


def test_what_was_saved_is_the_same():
    found = Answers("scores", (0.25, 0.5), "largest")
    assert Answers.from_dict(found.to_dict() | {"edges": [0.25, 0.5]}) == found
