"""What goes on inside the service at each load, as a picture: where the time goes, how rows are batched."""

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pipelines.core.capacity.charts import trials
from pipelines.core.capacity.proof import Load, Step, Trial
from pipelines.core.picture import INK, LINE, TEXT, legend_below, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = {"parse": "#9ecae1", "queue": "#e0a030", "assemble": "#b7c4d1", "model": INK, "respond": "#7fb3a6"}
"""Of a request, in their order, and their colors."""
ROW_HEIGHT, FRAME_HEIGHT, LEGEND_HEIGHT = 0.27, 0.75, 0.3
"""Inches."""
LEAST_TOLD = 0.005
"""A smaller share of the batches is not written in its field."""


def inside_chart(load: Load) -> bytes:
    """A PNG of each load: the parts of a request as bars, the mean ms of all beside them, and the share of
    the batches by their rows."""
    steps = {role: _by_rate(trial) for role, trial in trials(load).items()}
    heights = [ROW_HEIGHT * max(1, len(each)) + FRAME_HEIGHT for each in steps.values()]
    return picture(sum(heights) + LEGEND_HEIGHT, lambda figure: _draw(figure, steps, heights))


def batch_shares(cumulative: Mapping[str, int]) -> dict[str, float]:
    """The share of the batches with so many rows, by e.g. "3–4", from cumulative counts by upper end; all 0
    where there were no batches."""
    ends = sorted(cumulative, key=float)
    counts = np.diff([0, *(cumulative[end] for end in ends)])
    total = max(1, counts.sum())
    lasts = [0.0, *map(float, ends)]
    names = [_name(low, high) for low, high in pairwise(lasts)]
    return {name: float(count / total) for name, count in zip(names, counts, strict=True)}


def _name(above: float, upto: float) -> str:
    if upto == float("inf"):
        return f"> {above:,.0f}"
    return f"{upto:,.0f}" if upto - above <= 1 else f"{above + 1:,.0f}–{upto:,.0f}"


def _by_rate(trial: Trial) -> list[Step]:
    """All that was answered, of the soak the last part."""
    steps = [step for step in trial.steps if step.kind != "soak"] + trial.of("soak")[-1:]
    return sorted((step for step in steps if step.stage.requests), key=lambda step: step.stage.rate_rps)


def _draw(figure: "Figure", steps: Mapping[str, list[Step]], heights: list[float]) -> None:
    rows = figure.subplots(
        len(steps), 2, width_ratios=[5, 4], height_ratios=heights, squeeze=False, sharex="col"
    )
    tables = {role: [batch_shares(step.service.batch_rows) for step in each] for role, each in steps.items()}
    seen = [table for each in tables.values() for table in each]
    sizes = [size for size in (seen[0] if seen else []) if any(table.get(size) for table in seen)]
    for (parts, batches), (role, each) in zip(rows, steps.items(), strict=True):
        _draw_parts(parts, each)
        _draw_batches(batches, tables[role], sizes)
        parts.set_title(f"{role.capitalize()}: where the time of a request goes", loc="left")
        batches.set_title("Batches by their rows, % of all at this load", loc="left")
    rows[-1, 0].set_xlabel("share of the mean time, %; at the end the mean, ms")
    rows[-1, 1].set_xlabel("rows in a batch")
    legend_below(figure, len(PARTS))


def _draw_parts(axes: "Axes", steps: list[Step]) -> None:
    places = np.arange(len(steps))
    spent = np.array([[step.service.stage_ms.get(part, 0.0) for part in PARTS] for step in steps])
    spent = spent.reshape(-1, len(PARTS))
    totals = spent.sum(axis=1)
    shares = 100 * spent / np.where(totals > 0, totals, 1)[:, None]
    starts = np.cumsum(shares, axis=1) - shares
    for part, color, width, start in zip(PARTS, PARTS.values(), shares.T, starts.T, strict=True):
        axes.barh(places, width, 0.72, start, color=color, label=part)
    for place, total in enumerate(totals):
        says = f"{total:,.0f} ms" if total >= 100 else f"{total:.3g} ms"
        axes.text(101.5, place, says, va="center", fontsize=8)
    axes.set_yticks(places, [_label(step) for step in steps])
    axes.set(xlim=(0, 116), xticks=range(0, 101, 20))
    _bare(axes, len(steps))


def _label(step: Step) -> str:
    """Its name and rate; the steps of the climb are named by their rate alone."""
    rate = f"{step.stage.rate_rps:,.0f}/s"
    return rate if step.kind == "climb" else f"{'soak' if step.kind == 'soak' else step.stage.name}, {rate}"


def _draw_batches(axes: "Axes", tables: list[dict[str, float]], sizes: list[str]) -> None:
    shares = np.array([[table.get(size, 0.0) for size in sizes] for table in tables])
    shares = shares.reshape(len(tables), len(sizes))
    if shares.size:
        axes.imshow(shares, "Blues", vmin=0, vmax=1.1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if share >= LEAST_TOLD:
            color = "white" if share > 0.6 else TEXT
            axes.text(column, row, f"{share:.0%}"[:-1], ha="center", va="center", fontsize=7.5, color=color)
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set_yticks([])
    _bare(axes, len(tables))


def _bare(axes: "Axes", rows: int) -> None:
    axes.set_ylim(max(1, rows) - 0.5, -0.5)
    axes.tick_params(length=0, colors=TEXT, labelbottom=True)
    axes.spines[:].set_visible(False)
    for row in range(rows):
        axes.axhline(row + 0.5, color=LINE, linewidth=0.7)
