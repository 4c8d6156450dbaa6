"""Every metric against scikit-learn and published figures; intervals and verdicts against simulation."""

from statistics import NormalDist
from textwrap import dedent

import numpy as np
import pytest
from sklearn import metrics as sklearn
from sklearn.metrics.pairwise import cosine_similarity

from pipelines.core.errors import SettingsInvalid
from pipelines.core.estimates import mean_error, wilson
from pipelines.core.metrics import Loss, metric_of

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 400)
SCORES = 1 / (1 + np.exp(-(LABELS * 1.5 - 0.7 + RNG.normal(size=400))))
CLASSES = RNG.integers(0, 3, 400)
MANY = RNG.dirichlet([1, 1, 1], 400)
VECTORS = RNG.normal(size=(400, 5))
TWO_COLUMNS = np.column_stack([1 - SCORES, SCORES])

ALPHA, PAIRS = 0.05, 400
TOLERATED = ALPHA + 3 * (ALPHA * (1 - ALPHA) / PAIRS) ** 0.5
"""What a rate of α may show in that many pairs."""

CASES = {
    "auc": (LABELS, SCORES, roc := sklearn.roc_auc_score(LABELS, SCORES)),
    "auc of one column": (LABELS, SCORES[:, None], roc),
    "auc of two columns": (LABELS, TWO_COLUMNS, roc),
    "accuracy": (LABELS, SCORES, hits := sklearn.accuracy_score(LABELS, SCORES >= 0.5)),
    "accuracy of two columns": (LABELS, TWO_COLUMNS, hits),
    "accuracy of classes": (CLASSES, MANY, sklearn.accuracy_score(CLASSES, MANY.argmax(axis=1))),
    "log_loss": (LABELS, SCORES, surprise := sklearn.log_loss(LABELS, SCORES)),
    "log_loss of one column": (LABELS, SCORES[:, None], surprise),
    "log_loss of two columns": (LABELS, TWO_COLUMNS, surprise),
    "log_loss of classes": (CLASSES, MANY, sklearn.log_loss(CLASSES, MANY)),
    "rmse": (LABELS, SCORES[:, None], sklearn.root_mean_squared_error(LABELS, SCORES)),
    "cosine": (VECTORS, VECTORS + 1, np.diag(cosine_similarity(VECTORS, VECTORS + 1)).mean()),
}


@pytest.mark.parametrize("case", CASES)
def test_values_equal_scikit_learns(case):
    labels, predictions, expected = CASES[case]
    metric = metric_of(case.split()[0], 0.5)
    assert metric.refusal(labels, predictions) is None
    estimate = metric.estimate(labels, predictions)
    assert metric.value(labels, predictions) == pytest.approx(estimate.value) == pytest.approx(expected)
    assert estimate.low < estimate.value < estimate.high


def test_the_threshold_decides_for_accuracy():
    assert metric_of("accuracy", 0.8).value(LABELS, SCORES) == sklearn.accuracy_score(LABELS, SCORES >= 0.8)


@pytest.mark.parametrize("case", CASES)
def test_a_drop_is_positive_where_the_candidate_is_worse(case):
    labels, good, _ = CASES[case]
    worse = 1 - good if good.ndim == 1 else good[:, ::-1] if good.shape[1] > 1 else 1 - good
    if case == "cosine":
        worse = -good
    metric = metric_of(case.split()[0], 0.5)
    loss, back = metric.loss(labels, good, worse), metric.loss(labels, worse, good)
    change = metric.value(labels, good) - metric.value(labels, worse)
    assert loss.drop == pytest.approx(change if metric.higher_is_better else -change)
    assert (loss.drop, loss.error) == (pytest.approx(-back.drop), pytest.approx(back.error))
    assert loss.drop > 0 or case.endswith("classes")


def test_a_loss_has_one_sided_bounds_that_agree_with_its_p_value():
    loss = Loss(drop=0.01, error=0.002)
    assert loss.bound(0.95) == pytest.approx(0.01 + 1.6449 * 0.002, abs=1e-6)
    assert loss.floor(0.95) == pytest.approx(0.01 - 1.6449 * 0.002, abs=1e-6)
    assert loss.p_value(loss.floor(0.95)) == pytest.approx(0.05)
    assert loss.p_value(loss.bound(0.95)) == pytest.approx(0.95)
    assert (Loss(0.0, 0.0).p_value(0.0), Loss(0.1, 0.0).p_value(0.05)) == (1.0, 0.0)


def test_wilson_gives_newcombes_published_interval():
    assert wilson(81, 263, 1.959964) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


def test_accuracy_gives_agrestis_published_error():
    """Approval of a prime minister, asked twice (A. Agresti, Categorical Data Analysis)."""
    first = np.repeat([1.0, 1, 0, 0], [794, 150, 86, 570])
    second = np.repeat([1.0, 0, 1, 0], [794, 150, 86, 570])
    loss = metric_of("accuracy", 0.5).loss(np.ones(1600), first, second)
    assert (loss.drop, loss.error) == (pytest.approx(0.04), pytest.approx(0.0095, abs=1e-4))


def test_no_pair_that_differs_is_no_certainty_for_accuracy():
    loss = metric_of("accuracy", 0.5).loss(LABELS, SCORES, SCORES)
    assert (loss.drop, loss.error) == (0, pytest.approx(1 / 402))


@pytest.mark.parametrize("name", ["auc", "log_loss", "rmse"])
def test_the_same_answers_lose_nothing(name):
    assert metric_of(name, 0.5).loss(LABELS, SCORES, SCORES) == Loss(0.0, 0.0)


def test_a_single_row_that_differs_counts_once_more():
    differences = np.zeros(100)
    differences[0] = 1.0
    assert mean_error(differences) == pytest.approx((1.99 / (100 * 99)) ** 0.5)


# Simulated holdouts. Each returns labels, a reference, and a candidate that is worse by `drop` in truth; both
# are as noisy as two models trained alike, or a model and its quantized self at the worst.


def _apart(area: float) -> float:
    return NormalDist().inv_cdf(area) * 2**0.5


def _auc_pair(rng, rows, drop):
    labels = (np.arange(rows) < rows // 4).astype(int)
    signal = labels * _apart(0.8) + rng.normal(size=rows)
    ours = signal + rng.normal(size=rows) * 0.2
    spread = (_apart(0.8) / _apart(_auc_truth() - drop)) ** 2 - 1
    return labels, ours, signal + rng.normal(size=rows) * spread**0.5


def _auc_truth() -> float:
    return NormalDist().cdf(_apart(0.8) / (2 * 1.04) ** 0.5)


def _accuracy_pair(rng, rows, drop):
    labels, lot = np.ones(rows), rng.random((2, rows))
    ours = (lot[0] < 0.85).astype(float)
    turns = np.where(ours == 1, (0.01 + drop) / 0.85, 0.01 / 0.15)
    return labels, ours, np.where(lot[1] < turns, 1 - ours, ours)


def _log_loss_pair(rng, rows, drop):
    truth = rng.beta(2, 2, rows).clip(0.02, 0.98)
    labels = (rng.random(rows) < truth).astype(int)
    noise = np.exp(rng.normal(size=(2, rows)) * 0.05 - [[0.0], [drop]])
    ours, theirs = (np.where(labels == 1, truth, 1 - truth) * noise).clip(0.001, 0.999)
    return labels, np.where(labels == 1, ours, 1 - ours), np.where(labels == 1, theirs, 1 - theirs)


def _rmse_pair(rng, rows, drop):
    labels, error = rng.normal(size=rows), rng.normal(size=rows)
    ours, theirs = (error + rng.normal(size=rows) * 0.1 for _ in range(2))
    return labels, labels + ours, labels + theirs * (1 + drop / 1.01**0.5)


def _cosine_pair(rng, rows, drop):
    """Cosines of the candidate's plane vectors are the reference's, 0.9 and less, with `drop` off."""
    ours = 0.9 - np.abs(rng.normal(size=rows)) * 0.05
    theirs = 0.9 - np.abs(rng.normal(size=rows)) * 0.05 - drop
    return np.tile([1.0, 0.0], (rows, 1)), *(np.column_stack([c, (1 - c**2) ** 0.5]) for c in (ours, theirs))


PAIRS_OF = {
    "auc": (_auc_pair, _auc_truth()),
    "accuracy": (_accuracy_pair, 0.85),
    "log_loss": (_log_loss_pair, None),
    "rmse": (_rmse_pair, 1.01**0.5),
    "cosine": (_cosine_pair, 0.9 - 0.05 * (2 / np.pi) ** 0.5),
}


@pytest.mark.parametrize("name", PAIRS_OF)
def test_intervals_cover_about_as_often_as_they_say(name):
    pair, truth = PAIRS_OF[name]
    metric = metric_of(name, 0.5)
    if truth is None:
        truth = metric.value(*pair(np.random.default_rng(10**6), 10**6, 0)[:2])
    found = [metric.estimate(*pair(np.random.default_rng(seed), 500, 0)[:2]) for seed in range(PAIRS)]
    assert 0.92 <= np.mean([e.low <= truth <= e.high for e in found]) <= 0.98


@pytest.mark.parametrize("name", PAIRS_OF)
def test_worse_by_the_margin_passes_and_fails_at_most_alpha_often(name):
    """At a true drop that equals the margin, either verdict would be wrong."""
    margin, rows = 0.01, 1000
    metric, pair = metric_of(name, 0.5), PAIRS_OF[name][0]
    losses = [metric.loss(*pair(np.random.default_rng(seed), rows, margin)) for seed in range(PAIRS)]
    assert np.mean([loss.drop for loss in losses]) == pytest.approx(margin, abs=0.001)
    assert np.mean([loss.bound(1 - ALPHA) <= margin for loss in losses]) <= TOLERATED
    assert np.mean([loss.floor(1 - ALPHA) > margin for loss in losses]) <= TOLERATED


AMPLE_ROWS = {"auc": 12_000, "accuracy": 10_000, "log_loss": 3_000, "rmse": 10_000, "cosine": 1_000}
"""Rows that suffice to show, of pairs as noisy as these, that an equal candidate loses less than 0.005."""


@pytest.mark.parametrize("name", PAIRS_OF)
def test_equal_models_are_not_refused_and_pass_with_ample_rows(name):
    metric, pair = metric_of(name, 0.5), PAIRS_OF[name][0]
    losses = [metric.loss(*pair(np.random.default_rng(seed), AMPLE_ROWS[name], 0)) for seed in range(200)]
    tolerated = ALPHA + 3 * (ALPHA * (1 - ALPHA) / 200) ** 0.5
    assert np.mean([loss.floor(1 - ALPHA) > 0 for loss in losses]) <= tolerated
    assert not any(loss.floor(1 - ALPHA) > 0.005 for loss in losses)
    assert np.mean([loss.bound(1 - ALPHA) <= 0.005 for loss in losses]) >= 1 - ALPHA


def test_a_rung_that_only_rounds_passes_on_a_thousand_rows():
    """The noise of good INT8 is a twentieth of a logit; 250 of the 1,000 labels are 1."""
    metric, passed = metric_of("auc", 0.5), 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = (np.arange(1000) < 250).astype(int)
        signal = labels * _apart(0.75) + rng.normal(size=1000)
        passed += metric.loss(labels, signal, signal + rng.normal(size=1000) * 0.05).bound(1 - ALPHA) <= 0.005
    assert passed / 200 >= 1 - ALPHA


@pytest.mark.parametrize(
    ("name", "labels", "predictions", "says"),
    [
        ("auc", np.zeros(100), SCORES[:100], "all 100 labels are 0"),
        ("auc", np.ones(100, bool), SCORES[:100], "all 100 labels are 1"),
        ("auc", np.arange(100) < 4, SCORES[:100], "4 of 100 labels are 1: at least 30 of each kind"),
        ("auc", LABELS + 1, SCORES, "labels are not 0 or 1, the first is 2"),
        ("auc", CLASSES % 2, MANY, "auc judges two classes, the predictions have 3 columns"),
        ("auc", LABELS[:10], SCORES, "there are 10 labels for 400 predictions"),
        ("auc", LABELS[:0], SCORES[:0], "0 rows are too few to judge"),
        ("auc", np.where(LABELS == 1, np.nan, 0), SCORES, "labels are NaN or infinite"),
        ("auc", LABELS.astype(str), SCORES, "values, not numbers"),
        ("auc", LABELS, np.where(SCORES > 0.9, np.nan, SCORES), "predictions are NaN or infinite"),
        ("accuracy", CLASSES + 1, MANY, "labels are not a class from 0 to 2, the first is 3"),
        ("accuracy", VECTORS, SCORES, "labels have shape (400, 5) where one class a row is expected"),
        ("log_loss", LABELS + 0.5, SCORES, "400 of 400 labels are not 0 or 1"),
        ("log_loss", LABELS, SCORES * 4 - 2, "are outside [0, 1]: they are no probabilities"),
        ("log_loss", CLASSES, MANY / 2, "400 of 400 predictions do not sum to 1"),
        ("rmse", LABELS, TWO_COLUMNS, "the labels have shape (400,), the predictions (400, 2)"),
        ("cosine", VECTORS, VECTORS[:, :3], "the labels have shape (400, 5), the predictions (400, 3)"),
        ("cosine", VECTORS * 0, VECTORS, "400 of 400 target vectors are zero"),
    ],
)
def test_a_refusal_says_why_with_numbers(name, labels, predictions, says):
    assert says in (metric_of(name, 0.5).refusal(labels, predictions) or "nothing")


def test_log_loss_takes_certain_and_half_precision_probabilities():
    metric = metric_of("log_loss", 0.5)
    halves = MANY.astype(np.float16)
    assert metric.refusal(CLASSES, halves) is None
    assert metric.value(np.array([1, 0]), np.array([0.0, 0.0])) == pytest.approx(
        -np.log(2**-23) / 2, rel=1e-3
    )


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package of the user's, with metrics in it."""
    source = """
        import numpy as np

        def closeness(labels, predictions):
            return -np.abs(labels - predictions).mean()

        def recall(labels, predictions):
            return (predictions[labels == 1] >= 0.5).mean()
        recall.kind = "probability"

        def odd(labels, predictions):
            return 1.0
        odd.kind = "colour"

        def picky(labels, predictions):
            if len(set(predictions)) < len(predictions):
                raise ValueError("some rows are there twice")
            return 1.0

        def empty(labels, predictions):
            return float("nan")

        number = 3
    """
    (tmp_path / "my_metrics.py").write_text(dedent(source))
    monkeypatch.syspath_prepend(tmp_path)


def test_a_function_of_ones_own_is_a_metric(own):
    metric = metric_of("my_metrics:closeness", 0.5)
    assert (metric.name, metric.kind, metric.higher_is_better) == ("my_metrics:closeness", "value", True)
    assert metric_of("my_metrics:recall", 0.5).kind == "probability"
    differences = np.abs(LABELS - SCORES)
    estimate = metric.estimate(LABELS, SCORES)
    assert estimate.value == pytest.approx(-differences.mean())
    reach = 1.96 * differences.std() / 20
    assert estimate.high - estimate.value == pytest.approx(reach, rel=0.2)
    assert metric.estimate(LABELS, SCORES) == estimate


def test_its_loss_is_paired(own):
    metric = metric_of("my_metrics:closeness", 0.5)
    worse = SCORES + (0.5 - SCORES) * 0.1
    loss, drops = metric.loss(LABELS, SCORES, worse), np.abs(LABELS - worse) - np.abs(LABELS - SCORES)
    assert loss.drop == pytest.approx(drops.mean())
    assert loss.error == pytest.approx(drops.std() / 20, rel=0.2)


def test_a_function_that_fails_says_so_and_an_error_that_is_unknown_shows_nothing(own):
    picky, empty = metric_of("my_metrics:picky", 0.5), metric_of("my_metrics:empty", 0.5)
    assert picky.refusal(LABELS, LABELS) == "my_metrics:picky raised ValueError: some rows are there twice"
    assert empty.refusal(LABELS, SCORES) == "my_metrics:empty returned nan"
    loss = picky.loss(LABELS, SCORES, SCORES)
    assert (loss.bound(0.95), loss.floor(0.95)) == (np.inf, -np.inf)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("f1", "it is one of auc, accuracy"),
        ("nowhere_at_all:f", "it can't be imported (No module named 'nowhere_at_all')"),
        ("my_metrics:missing", "has no attribute 'missing'"),
        ("my_metrics:number", "it is not a function"),
        ("my_metrics:odd", "it is one of probability, value, embedding"),
    ],
)
def test_a_metric_that_is_not_there_is_one_sentence(own, name, says):
    with pytest.raises(SettingsInvalid, match=r"^[^\n]*$") as raised:
        metric_of(name, 0.5)
    assert says in str(raised.value)
