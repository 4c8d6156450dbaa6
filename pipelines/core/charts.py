"""The ladder as a picture: one row a rung, how right it is on the left, how fast on the right."""

from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np

from pipelines.core.ladder import Ladder, RungReport
from pipelines.core.picture import AMBER, BAND, GREY, INK, LINE, RED, TEXT, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"chosen": INK, "pass": GREY, "fail": RED, "inconclusive": AMBER}
WORDS = {"chosen": "chosen", "pass": "passed", "fail": "refused", "inconclusive": "inconclusive"}
BAR_HEIGHT, FRAME_HEIGHT = 0.19, 1.3
"""Inches of the picture."""

NAMES = {"auc": "AUC", "rmse": "RMSE", "log_loss": "log loss"}
LOWER_IS_BETTER = ("rmse", "log_loss")


def ladder_chart(ladder: Ladder) -> bytes:
    """A PNG of every rung: its metric with the 95 % interval, and how many times as fast as fp32 it is at
    each batch size, with the range of the rounds. The title is the decision."""
    height = FRAME_HEIGHT + len(ladder.rungs) * BAR_HEIGHT * (1 + max(2, len(ladder.batch_sizes)))
    return picture(height, lambda figure: _draw_ladder(figure, ladder))


def decision(ladder: Ladder) -> str:
    """What the ladder came to, in a line."""
    if ladder.chosen is None:
        thin = sum(rung.outcome == "inconclusive" for rung in ladder.rungs)
        counts = {"refused": len(ladder.rungs) - thin, "inconclusive": thin}
        return f"No rung may be served: {', '.join(f'{n} {word}' for word, n in counts.items() if n)}"
    best = ladder.winner
    gain = f"{best.overall_speedup:.2f} times as fast as fp32"
    if best.rung == "fp32":
        gain = "no other rung that passed is faster"
    return f"{best.rung} is chosen: {gain}, {metric_name(ladder.metric)} {best.value:.4f}"


def metric_name(metric: str) -> str:
    """The metric as people write it; of package.module:function the function."""
    return NAMES.get(metric, metric.split(":")[-1].replace("_", " "))


def _standing(rung: RungReport) -> str:
    return "chosen" if rung.chosen else rung.outcome


def _draw_ladder(figure: "Figure", ladder: Ladder) -> None:
    accuracy, speed = figure.subplots(1, 2, width_ratios=[5, 6], sharey=True)
    for axes in (accuracy, speed):
        _draw_rows(axes, ladder)
    _draw_names(accuracy, ladder)
    _draw_accuracy(accuracy, ladder)
    _draw_speed(speed, ladder)
    figure.suptitle(decision(ladder), x=0.008, ha="left", fontsize=11.5, fontweight="bold")


def _draw_rows(axes: "Axes", ladder: Ladder) -> None:
    """What both halves share: a row a rung, the chosen one on a band, no frame."""
    for row, rung in enumerate(ladder.rungs):
        if rung.chosen:
            axes.axhspan(row - 0.5, row + 0.5, color=BAND, zorder=0)
        axes.axhline(row + 0.5, color=LINE, linewidth=0.7, zorder=0)
    axes.set_ylim(len(ladder.rungs) - 0.5, -0.5)
    axes.tick_params(length=0, colors=TEXT)
    axes.spines[:].set_visible(False)


def _draw_names(axes: "Axes", ladder: Ladder) -> None:
    words = [WORDS[_standing(rung)] if rung.built else "not built" for rung in ladder.rungs]
    names = [f"{rung.rung}\n{word}" for rung, word in zip(ladder.rungs, words, strict=True)]
    axes.set_yticks(range(len(names)), names)
    for label, rung in zip(axes.get_yticklabels(), ladder.rungs, strict=True):
        label.set(color=COLORS[_standing(rung)], fontweight="bold" if rung.chosen else "normal")


def _draw_accuracy(axes: "Axes", ladder: Ladder) -> None:
    better = ", lower is better," if ladder.metric in LOWER_IS_BETTER else ""
    axes.set_title("Accuracy", loc="left", fontweight="bold")
    metric = f"{metric_name(ladder.metric)}{better}"
    axes.set_xlabel(f"{metric} with its 95 % interval, on {ladder.rows:,} held-out rows")
    for row, rung in enumerate(ladder.rungs):
        if rung.value is None:
            why, across = shorten(rung.why, 75, placeholder=" …"), axes.get_yaxis_transform()
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(0.02, row, why, transform=across, va="center", style="italic", fontsize=8, bbox=box)
        else:
            _draw_interval(axes, row, rung, rung.value)
    if all(rung.value is None for rung in ladder.rungs):
        axes.set_xticks([])
    axes.margins(x=0.08)


def _draw_interval(axes: "Axes", row: int, rung: RungReport, value: float) -> None:
    color, behind = COLORS[_standing(rung)], BAND if rung.chosen else "white"
    if rung.rung == "fp32":
        axes.axvline(value, color=TEXT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    reach = np.array([rung.low, rung.high], dtype=float)
    axes.plot(reach, [row, row], color=color, linewidth=3, solid_capstyle="round")
    axes.plot(value, row, "o", color=color, markersize=8, markeredgecolor="white")
    box = {"facecolor": behind, "edgecolor": "none", "pad": 1}
    axes.annotate(f"{value:.4f}", (value, row), (0, 8), textcoords="offset points", ha="center", fontsize=8,
                  color=color, bbox=box)  # fmt: skip


def _draw_speed(axes: "Axes", ladder: Ladder) -> None:
    sizes = [str(size) for size in ladder.batch_sizes]
    thickness = 0.8 / max(2, len(sizes))
    axes.set_title("Speed on this machine", loc="left", fontweight="bold")
    axes.set_xlabel("times as fast as fp32, median and range of the rounds")
    for row, rung in enumerate(ladder.rungs):
        places = row + (np.arange(len(sizes)) - (len(sizes) - 1) / 2) * thickness
        for size, at in zip(sizes, places, strict=True):
            if size in rung.speedup:
                _draw_bar(axes, at, 0.8 * thickness, size, rung)
    furthest = [times["high"] for rung in ladder.rungs for times in rung.speedup.values()]
    axes.set_xlim(0, 1.22 * max(furthest, default=1))
    if furthest:
        axes.axvline(1, color=TEXT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    else:
        axes.set_xticks([])


def _draw_bar(axes: "Axes", at: float, thickness: float, size: str, rung: RungReport) -> None:
    color, times = COLORS[_standing(rung)], rung.speedup[size]
    axes.barh(at, times["median"], thickness, color=color, alpha=0.85, zorder=2)
    axes.plot([times["low"], times["high"]], [at, at], color="#222222", linewidth=1.2, zorder=3)
    says = f"{times['median']:.2f}×  {int(size):,} row{'s' * (size != '1')}"
    axes.annotate(says, (times["high"], at), (5, 0), textcoords="offset points", va="center", fontsize=7.5,
                  color=color, zorder=4)  # fmt: skip
