"""The gate: judges each rung on its evidence, and the chosen one against what serves now.

Every judgement is three-valued: pass, fail, or inconclusive. Only what passes is served.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.core.evaluate import shift
from pipelines.core.fairness import Gap
from pipelines.core.findings import (
    Finding,
    Holdout,
    batch_findings,
    calibration_error,
    loss_finding,
    movement,
    movement_findings,
    rise,
    slice_findings,
    speed_findings,
    summary,
    too_thin,
)
from pipelines.core.invariance import Invariance
from pipelines.core.ladder import Ladder, RungReport
from pipelines.core.slices import SliceResult, judge_slices
from pipelines.core.spec import GateSpec
from pipelines.core.speed import Speed, overall
from pipelines.core.verdict import Verdict

AGAINST_FP32 = "accuracy_non_inferior_to_fp32"
AGAINST_PRODUCTION = "accuracy_non_inferior_to_production"
FAIRNESS = "fairness_within_limits"

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Trial:
    """What was measured of one rung: its answers to the holdout, alone and in batches, and its speed."""

    rung: str
    sha256: str
    size_bytes: int
    notes: Mapping[str, object]
    outputs: Outputs
    invariance: Invariance
    placement: Mapping[str, int]
    speeds: Mapping[int, Speed]


def judge_rung(trial: Trial, fp32: Outputs, holdout: Holdout, spec: GateSpec) -> RungReport:
    """Judge one rung that was built against fp32, on the same rows."""
    facts = {"sha256": trial.sha256, "size_bytes": trial.size_bytes, "notes": trial.notes}
    scores, before = trial.outputs[holdout.output], fp32[holdout.output]
    if thin := too_thin(holdout, scores, spec):
        return RungReport(trial.rung, True, thin, "inconclusive", **facts)
    metric, labels = holdout.metric, holdout.labels
    estimate, loss = metric.estimate(labels, scores), metric.loss(labels, before, scores)
    shifts = {
        name: movement(name, fp32[name], values, holdout, spec) for name, values in trial.outputs.items()
    }
    moved, risen = shifts[holdout.output], rise(holdout, before, scores)
    slices = judge_slices(metric, labels, before, scores, holdout.masks, spec)
    findings: list[Finding] = [
        loss_finding(loss, metric.name, "", len(labels), spec),
        *slice_findings(slices),
        *movement_findings(shifts, moved, risen, spec),
        *batch_findings(trial.invariance, spec),
        *([] if trial.rung == "fp32" else speed_findings(trial.speeds)),
    ]
    outcome, why = summary(findings)
    return RungReport(
        trial.rung,
        True,
        why,
        outcome,
        **facts,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        drop=loss.drop,
        drop_bound=loss.bound(spec.confidence),
        mean_shift=moved.mean,
        max_shift=moved.max,
        flips=moved.flips,
        flip_rate=moved.flip_rate,
        output_shifts={name: found.mean for name, found in shifts.items()},
        calibration_error=calibration_error(holdout, scores),
        calibration_rise=risen.drop if risen else None,
        batch_shift=trial.invariance.worst,
        slices=[asdict(slice_) for slice_ in slices],
        placement=trial.placement,
        **_speed_figures(trial.speeds),
    )


def _speed_figures(speeds: Mapping[int, Speed]) -> dict[str, Any]:
    return {
        "overall_speedup": overall(speeds),
        "latency_us": {str(rows): speed.latency_us for rows, speed in speeds.items()},
        "speedup": {
            str(rows): {"median": speed.speedup, "low": speed.low, "high": speed.high}
            for rows, speed in speeds.items()
        },
    }


def judge_ladder(ladder: Ladder) -> Verdict:
    """Whether some rung passed: then the chosen one is non-inferior to fp32 by its own evidence."""
    if ladder.chosen is None:
        reasons = tuple(f"{report.rung}: {report.why}" for report in ladder.rungs)
        thin = any(report.outcome == "inconclusive" for report in ladder.rungs)
        return Verdict(AGAINST_FP32, "inconclusive" if thin else "fail", "no rung", reasons)
    best = ladder.winner
    why = (
        f"{best.rung} loses at most {best.drop_bound:.4f} {ladder.metric} against fp32 on {ladder.rows} rows"
    )
    names = ("drop", "drop_bound", "mean_shift", "max_shift", "flips", "calibration_rise", "batch_shift")
    numbers = {name: getattr(best, name) for name in names}
    return Verdict(AGAINST_FP32, "pass", best.sha256, (why,), {**numbers, "rows": ladder.rows})


def judge_against_production(
    production: np.ndarray | None,
    candidate: np.ndarray,
    holdout: Holdout,
    spec: GateSpec,
    subject: str,
    version: str | None,
) -> tuple[Verdict, tuple[SliceResult, ...]]:
    """Whether the candidate is as good as version `version`, which serves now, overall and on each slice.

    `production` is its answers to the same rows. Answers may move between versions, so movement is only told.
    """
    if production is None:
        first = ("no other version is in production",)
        return Verdict(AGAINST_PRODUCTION, "pass", subject, first, {"production_version": None}), ()
    numbers: dict = {"rows": len(holdout.labels), "production_version": version}
    for scores in (production, candidate):
        if thin := too_thin(holdout, scores, spec):
            return Verdict(AGAINST_PRODUCTION, "inconclusive", subject, (thin,), numbers), ()
    metric, against = holdout.metric, f" against version {version}"
    loss = metric.loss(holdout.labels, production, candidate)
    slices = judge_slices(metric, holdout.labels, production, candidate, holdout.masks, spec)
    findings: list[Finding] = [loss_finding(loss, metric.name, against, len(holdout.labels), spec)]
    findings += slice_findings(slices, against)
    numbers |= {"drop": loss.drop, "drop_bound": loss.bound(spec.confidence)}
    numbers |= _told(production, candidate, holdout, spec)
    outcome, why = summary(findings)
    praise = (
        f"loses at most {loss.bound(spec.confidence):.4f} {metric.name}{against} on {numbers['rows']} rows"
    )
    return Verdict(AGAINST_PRODUCTION, outcome, subject, (why or praise,), numbers), slices


def judge_groups(gaps: Sequence[Gap], subject: str) -> Verdict:
    """Whether every gap between groups is within its limit; without limits there is nothing to judge."""
    if not gaps:
        return Verdict(FAIRNESS, "pass", subject, ("no limits between groups are set",))
    findings: list[Finding] = [(gap.outcome, gap.why) for gap in gaps if gap.outcome != "pass"]
    outcome, why = summary(findings)
    numbers = {f"{gap.column}, {gap.rate}": gap.gap for gap in gaps}
    praise = f"no gap is above its limit; the largest is {max(gap.gap or 0 for gap in gaps):.3f}"
    return Verdict(FAIRNESS, outcome, subject, (why or praise,), numbers)


def _told(before: np.ndarray, after: np.ndarray, holdout: Holdout, spec: GateSpec) -> dict[str, float | None]:
    """How far answers moved between the versions, where they can be compared."""
    if before.shape != after.shape:
        return {}
    moved, risen = shift(before, after, holdout.metric.kind, spec.threshold), rise(holdout, before, after)
    facts = {"mean_shift": moved.mean, "max_shift": moved.max, "flips": moved.flips}
    return {**facts, "calibration_rise": risen.drop if risen else None}
