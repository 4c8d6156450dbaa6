"""What speaks against a rung or a version, as sentences with numbers.

A loss is shown where the one-sided lower bound of the paired difference is above the limit, and ruled out
where the upper bound is not; between the two, the rows cannot tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import NormalDist

import numpy as np

from pipelines.core.evaluate import Shift, shift
from pipelines.core.invariance import Invariance
from pipelines.core.ladder import TIE
from pipelines.core.metrics import Kind, Loss, Metric, metric_of
from pipelines.core.reliability import calibration_rise, expected_calibration_error
from pipelines.core.slices import SliceResult
from pipelines.core.spec import GateSpec
from pipelines.core.speed import Speed, overall
from pipelines.core.verdict import Outcome

NAMED_SLICES = 3
POWER = 0.8
"""The probability with which the number of rows that is asked for would show that nothing is lost."""

MOVEMENT: dict[Kind, str] = {
    "probability": "moves {name} by {mean:.3f} on average",
    "value": "moves {name} by {mean:.3f} standard deviations on average",
    "embedding": "turns {name} by 1 - cosine {mean:.3f} on average",
}

Finding = tuple[Outcome, str]
"""What was found, and the reason if it is no pass."""


@dataclass(frozen=True)
class Holdout:
    """The rows that everything is judged on: their labels, the masks of their slices, what is judged."""

    labels: np.ndarray
    masks: Mapping[str, np.ndarray]
    output: str
    metric: Metric


def too_thin(holdout: Holdout, scores: np.ndarray, spec: GateSpec) -> str | None:
    """Why these rows can't carry a decision, or None when they can."""
    if len(holdout.labels) < spec.min_rows:
        return f"{len(holdout.labels)} holdout rows are fewer than {spec.min_rows}"
    return holdout.metric.refusal(holdout.labels, scores)


def slice_findings(slices: Sequence[SliceResult], against: str = "") -> list[Finding]:
    """The worst slices that fail; the others are counted."""
    failed = sorted((s for s in slices if s.outcome == "fail"), key=lambda s: s.drop or 0, reverse=True)
    reasons = [slice_.why + against for slice_ in failed[:NAMED_SLICES]]
    if len(failed) > NAMED_SLICES:
        reasons.append(f"{len(failed) - NAMED_SLICES} other slices fail too")
    return [("fail", reason) for reason in reasons]


def summary(findings: Sequence[Finding]) -> tuple[Outcome, str]:
    """The worst outcome, and every reason but those of a pass."""
    outcomes = {outcome for outcome, _ in findings}
    worst: Outcome = (
        "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"
    )
    return worst, "; ".join(reason for outcome, reason in findings if outcome != "pass")


def loss_finding(loss: Loss, metric: str, against: str, rows: int, spec: GateSpec) -> Finding:
    if not isfinite(loss.error):
        return "inconclusive", f"the error of {metric}{against} is not known: it fails on resampled rows"
    bound, floor = loss.bound(spec.confidence), loss.floor(spec.confidence)
    limit = f"more than {spec.max_drop:g}"
    if bound <= spec.max_drop:
        return "pass", ""
    if floor > spec.max_drop:
        return "fail", f"loses {loss.drop:.4f} {metric}{against}, {limit} (at least {floor:.4f})"
    may = f"may lose {bound:.4f} {metric}{against}, {limit}: {rows} rows cannot tell"
    return "inconclusive", may + _rows_needed(loss, rows, spec)


def _rows_needed(loss: Loss, rows: int, spec: GateSpec) -> str:
    """How many rows would show that nothing is lost, if nothing is."""
    if not spec.max_drop:
        return ""
    reach = NormalDist().inv_cdf(spec.confidence) + NormalDist().inv_cdf(POWER)
    return f", about {rows * (reach * loss.error / spec.max_drop) ** 2:,.0f} would"


def movement(name: str, before: np.ndarray, after: np.ndarray, holdout: Holdout, spec: GateSpec) -> Shift:
    """Outputs that the labels are not about are vectors, or values."""
    return shift(before, after, _kind(name, before, holdout), spec.threshold)


def _kind(name: str, values: np.ndarray, holdout: Holdout) -> Kind:
    if name == holdout.output:
        return holdout.metric.kind
    return "embedding" if values.ndim == 2 and values.shape[1] > 1 else "value"


def rise(holdout: Holdout, before: np.ndarray, after: np.ndarray) -> Loss | None:
    """How much higher the calibration error is, where both answers are probabilities."""
    if not (_are_probabilities(holdout, before) and _are_probabilities(holdout, after)):
        return None
    return calibration_rise(holdout.labels, before, after)


def calibration_error(holdout: Holdout, scores: np.ndarray) -> float | None:
    if not _are_probabilities(holdout, scores):
        return None
    return expected_calibration_error(holdout.labels, scores)


def _are_probabilities(holdout: Holdout, scores: np.ndarray) -> bool:
    """AUC also judges scores of any size, which mean nothing by themselves."""
    log_loss = metric_of("log_loss", 0.5)
    return holdout.metric.kind == "probability" and log_loss.refusal(holdout.labels, scores) is None


def movement_findings(
    shifts: Mapping[str, Shift], moved: Shift, rise: Loss | None, spec: GateSpec
) -> list[Finding]:
    found: list[Finding] = []
    for name, how_far in shifts.items():
        if how_far.mean > spec.max_mean_shift:
            moves = MOVEMENT[how_far.kind].format(name=name, mean=how_far.mean)
            found.append(("fail", f"{moves}, more than {spec.max_mean_shift:g}"))
    if moved.flip_rate > spec.max_flip_rate:
        turned = f"turns {moved.flips} of {moved.rows} decisions ({moved.flip_rate:.1%})"
        found.append(("fail", f"{turned}, more than {spec.max_flip_rate:.1%}"))
    if rise and rise.floor(spec.confidence) > spec.max_calibration_rise:
        limit = f"more than {spec.max_calibration_rise:g}"
        found.append(("fail", f"its probabilities are off by {rise.drop:.3f} more than fp32's, {limit}"))
    return found


def batch_findings(invariance: Invariance, spec: GateSpec) -> list[Finding]:
    if invariance.worst <= spec.max_batch_shift:
        return []
    limit = f"more than {spec.max_batch_shift:g}"
    return [("fail", f"a row's batch mates move its answer by {invariance.worst:.2g}, {limit}")]


def speed_findings(speeds: Mapping[int, Speed]) -> list[Finding]:
    """A rung must be faster over all, and slower nowhere: nobody knows which batches traffic will make."""
    if overall(speeds) <= 1:
        return [("fail", f"is not faster than fp32 ({overall(speeds):.2f}x)")]
    slow = {rows: speed.speedup for rows, speed in speeds.items() if speed.speedup * TIE < 1}
    where = ", ".join(f"{rows} rows ({times:.2f}x)" for rows, times in slow.items())
    return [("fail", f"is slower than fp32 at {where}")] if slow else []
