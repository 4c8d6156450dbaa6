"""The precision ladder as a table: what each rung is, what was measured, which one won and why."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pipelines.core.errors import EvidenceMissing
from pipelines.core.spec import GateSpec
from pipelines.core.verdict import Outcome

TIE = 1.02
"""Rungs within 2 % of the fastest are equally fast: that is the noise of the measurement."""


@dataclass(frozen=True)
class RungReport:
    """One row of the ladder: what a rung is, what was measured, and what came of it.

    notes                 what its builder has to say, e.g. the nodes that it left in fp32
    value, low, high      the metric on the holdout with its 95 % interval
    drop, drop_bound      how much worse the metric is than fp32's, and the one-sided bound of that
    mean_shift, max_shift how far answers moved from fp32's: |Δp| of probabilities, |Δ| in standard deviations
                          of other values, 1 - cosine of embeddings;  flips, flip_rate: decisions that turned
    output_shifts         the mean movement of each output
    calibration_error     expected calibration error, and calibration_rise, how much higher than fp32's
    batch_shift           largest movement of a row between being scored alone and among others
    slices                what was found on each slice of the holdout (`slices.SliceResult`)
    placement             how many nodes run on which execution provider
    speedup               times as fast as fp32 at each batch size, and over all (geometric mean)
    """

    rung: str
    built: bool
    why: str
    outcome: Outcome = "fail"
    chosen: bool = False
    sha256: str = ""
    size_bytes: int | None = None
    notes: Mapping[str, object] = field(default_factory=dict)
    value: float | None = None
    low: float | None = None
    high: float | None = None
    drop: float | None = None
    drop_bound: float | None = None
    mean_shift: float | None = None
    max_shift: float | None = None
    flips: int | None = None
    flip_rate: float | None = None
    output_shifts: Mapping[str, float] = field(default_factory=dict)
    calibration_error: float | None = None
    calibration_rise: float | None = None
    batch_shift: float | None = None
    slices: Sequence[Mapping] = ()
    placement: Mapping[str, int] = field(default_factory=dict)
    overall_speedup: float | None = None
    latency_us: Mapping[str, float] = field(default_factory=dict)
    speedup: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Ladder:
    """All rungs that were tried on the same holdout rows, and which one was chosen."""

    metric: str
    rows: int
    batch_sizes: list[int]
    chosen: str | None
    rungs: tuple[RungReport, ...]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Ladder":
        fields = json.loads(path.read_text())
        return cls(**{**fields, "rungs": tuple(RungReport(**rung) for rung in fields["rungs"])})

    def markdown(self) -> str:
        """The table of all rungs and what came of each, for the catalogue."""
        sizes = [str(rows) for rows in self.batch_sizes]
        names = ["rung", f"{self.metric} (95 %)", "KiB", "mean, max Δ", "flips", "batch Δ"]
        head = [*names, *(f"× at {rows}" for rows in sizes), "verdict"]
        lines = [head, ["---"] * len(head), *(_row(rung, sizes) for rung in self.rungs)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return table + "\n\n" + "\n".join(f"- **{r.rung}** {r.outcome}: {r.why}" for r in self.rungs)

    @property
    def accuracy(self) -> float:
        """The metric of the chosen rung on the holdout."""
        value = self.winner.value
        assert value is not None, "only a rung that was judged is chosen"
        return value

    @property
    def winner(self) -> RungReport:
        """The chosen rung. Raises EvidenceMissing where none passed."""
        for rung in self.rungs:
            if rung.chosen:
                return rung
        raise EvidenceMissing("The release model", "no rung passed the gate")


def choose(reports: list[RungReport], spec: GateSpec, rows: int) -> Ladder:
    """Pick the fastest passing rung; of equally fast ones the most exact. The others say why they lost."""
    passing = [report for report in reports if report.outcome == "pass"]
    fastest = max((report.overall_speedup or 0 for report in passing), default=0)
    level = [report for report in passing if (report.overall_speedup or 0) * TIE >= fastest]
    winner = min(level, key=lambda report: report.mean_shift or 0, default=None)
    return Ladder(
        spec.metric,
        rows,
        list(spec.batch_sizes),
        winner.rung if winner else None,
        tuple(_explained(report, winner) for report in reports),
    )


def _explained(report: RungReport, winner: RungReport | None) -> RungReport:
    if winner is None or report.outcome != "pass":
        return report
    if report is winner:
        return replace(report, chosen=True, why="the fastest that passed everything")
    ours, theirs = winner.overall_speedup or 0, report.overall_speedup or 0
    if ours > theirs * TIE:
        return replace(report, why=f"passed, but {winner.rung} is faster ({ours:.2f}x against {theirs:.2f}x)")
    return replace(report, why=f"passed, but {winner.rung} is as fast and more exact")


def _row(report: RungReport, sizes: Sequence[str]) -> list[str]:
    if report.value is None:
        return [report.rung, *["–"] * (5 + len(sizes)), report.outcome]
    return [
        f"**{report.rung}**" if report.chosen else report.rung,
        f"{report.value:.4f} ({report.low:.4f}–{report.high:.4f})",
        f"{(report.size_bytes or 0) / 1024:.0f}",
        f"{report.mean_shift:.4f}, {report.max_shift:.4f}",
        f"{report.flips} ({report.flip_rate:.2%})",
        f"{report.batch_shift:.1e}",
        *(f"{report.speedup[rows]['median']:.2f}" for rows in sizes),
        report.outcome,
    ]
