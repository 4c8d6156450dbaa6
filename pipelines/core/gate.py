"""The gate: judges each rung on its evidence, and the chosen one against what serves now."""

from collections.abc import Mapping

import numpy as np

from pipelines.core.evaluate import Shift, auc_drop, auc_interval, shift
from pipelines.core.ladder import Ladder, RungReport
from pipelines.core.spec import GateSpec
from pipelines.core.speed import Speed, overall
from pipelines.core.verdict import Verdict, judge


def report_rung(
    rung: str,
    sha256: str,
    size_bytes: int,
    labels: np.ndarray,
    fp32: np.ndarray,
    scores: np.ndarray,
    batch_shift: float,
    speeds: Mapping[int, Speed],
    spec: GateSpec,
) -> RungReport:
    """Judge one rung that was built, against fp32 on the same rows."""
    if thin := too_thin(labels, spec):
        return RungReport(rung, True, thin, "inconclusive", sha256=sha256, size_bytes=size_bytes)
    value, low, high = auc_interval(labels, scores)
    drop, bound = auc_drop(labels, fp32, scores, spec.confidence)
    moved, speedup = shift(fp32, scores), overall(speeds)
    reasons = _objections(rung, bound, moved, batch_shift, speedup, spec)
    return RungReport(
        rung,
        built=True,
        why="; ".join(reasons),
        outcome="fail" if reasons else "pass",
        sha256=sha256,
        size_bytes=size_bytes,
        value=value,
        low=low,
        high=high,
        drop=drop,
        drop_bound=bound,
        mean_shift=moved.mean,
        max_shift=moved.max,
        flips=moved.flips,
        batch_shift=batch_shift,
        overall_speedup=speedup,
        latency_us={str(rows): speed.latency_us for rows, speed in speeds.items()},
        speedup={
            str(rows): {"median": speed.speedup, "low": speed.low, "high": speed.high}
            for rows, speed in speeds.items()
        },
    )


def too_thin(labels: np.ndarray, spec: GateSpec) -> str | None:
    """Why these labels can't carry a decision, or None when they can."""
    if len(labels) < spec.min_rows:
        return f"{len(labels)} holdout rows are fewer than {spec.min_rows}"
    if len(np.unique(labels)) < 2:
        return f"all {len(labels)} holdout rows have the same label"
    return None


def _objections(
    rung: str, bound: float, moved: Shift, batch_shift: float, speedup: float, spec: GateSpec
) -> list[str]:
    """Why the rung may not be served; empty when nothing speaks against it."""
    limits = [
        (bound <= spec.max_drop, f"may lose {bound:.4f} {spec.metric}, more than {spec.max_drop:g}"),
        (
            moved.mean <= spec.max_mean_shift,
            f"moves answers by {moved.mean:.3f} on average, more than {spec.max_mean_shift:g}",
        ),
        (
            batch_shift <= spec.max_batch_shift,
            f"a row's batch mates move its answer by {batch_shift:.2g}, more than {spec.max_batch_shift:g}",
        ),
        (rung == "fp32" or speedup > 1, f"is not faster than fp32 ({speedup:.2f}x)"),
    ]
    return [objection for fine, objection in limits if not fine]


def judge_ladder(ladder: Ladder) -> Verdict:
    """Whether some rung passed: then the chosen one is non-inferior to fp32 by its own evidence."""
    failures = [f"{report.rung}: {report.why}" for report in ladder.rungs]
    if ladder.chosen is None:
        outcome = "inconclusive" if any(r.outcome == "inconclusive" for r in ladder.rungs) else "fail"
        return Verdict("accuracy_non_inferior_to_fp32", outcome, "no rung", tuple(failures))
    best = ladder.winner
    return judge(
        "accuracy_non_inferior_to_fp32",
        best.sha256,
        [],
        f"{best.rung} loses at most {best.drop_bound:.4f} {ladder.metric} against fp32 on {ladder.rows} rows",
        drop=best.drop,
        drop_bound=best.drop_bound,
        mean_shift=best.mean_shift,
        flips=best.flips,
        rows=ladder.rows,
    )


def judge_against_production(
    labels: np.ndarray,
    production: np.ndarray | None,
    candidate: np.ndarray,
    spec: GateSpec,
    subject: str,
    version: str | None,
) -> Verdict:
    """Whether the candidate is as good as what serves now; `production` is its scores on the same rows."""
    gate = "accuracy_non_inferior_to_production"
    if production is None:
        return judge(gate, subject, [], "no other version is in production")
    if thin := too_thin(labels, spec):
        return Verdict(gate, "inconclusive", subject, (thin,))
    drop, bound = auc_drop(labels, production, candidate, spec.confidence)
    loss = f"may lose {bound:.4f} {spec.metric} against version {version}, more than {spec.max_drop:g}"
    praise = f"loses at most {bound:.4f} {spec.metric} against version {version} on {len(labels)} rows"
    numbers = {"drop": drop, "drop_bound": bound, "rows": len(labels), "production_version": version}
    return judge(gate, subject, [] if bound <= spec.max_drop else [loss], praise, **numbers)
