"""A rollout as pictures: users and bounds over time; an A/B stratum by stratum."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.core.picture import (
    AMBER,
    BAND,
    DASHED,
    GREY,
    INK,
    LINE,
    RED,
    TEXT,
    framed,
    legend_below,
    picture,
)
from pipelines.core.rollout.guardrails import Finding
from pipelines.core.rollout.stratified import Analysis
from pipelines.core.rollout.timeline import Look, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT, ROW_HEIGHT = 1.7, 0.34
"""Inches of a panel, and of a stratum."""
MARKS = {"harmless": (INK, "o", INK), "harm": (RED, "X", RED), "inconclusive": (AMBER, "o", "white")}
WORDS = {"harmless": "proved harmless", "harm": "harm is proved", "inconclusive": "not certain yet"}
PERIODS = ((3 * 86_400, 86_400, "days"), (3 * 3600, 3600, "hours"), (180, 60, "minutes"), (0, 1, "seconds"))
"""From so many seconds on, what time is told in."""
ROOM = 5
"""How many times as much as is allowed is shown, where nothing is proved to be more."""
LABELLED = 0.1
"""Of the width: steps that are narrower have no room for their name."""
FILL = "#c9d9e8"
IN_POINTS = {
    "error_rate": "Rise of the share of requests that fail",
    "predictions": "Distance between the distributions of the answers",
    "split": "The new release's share of the requests, off the planned one",
}


def rollout_chart(timeline: Timeline) -> bytes:
    """A PNG of the users of the canary over time, and below, for each guardrail, between which bounds the
    effect lay at each look, against what is allowed. The marks show what was known at the end of a step."""
    names = list(dict.fromkeys(each.name for look in timeline.looks for each in look.findings))
    return picture(HEIGHT * (1.1 + len(names)), lambda figure: _draw_rollout(figure, timeline, names))


def strata_chart(analysis: Analysis) -> bytes:
    """A PNG of the difference of each stratum and of all users, with intervals that may be watched."""
    rows = len(analysis.strata) + 2
    return picture(1.1 + ROW_HEIGHT * rows, lambda figure: _draw_strata(figure, analysis))


def period(seconds: float) -> tuple[float, str]:
    """The unit in which so much time is told: its seconds and its name."""
    return next((size, name) for least, size, name in PERIODS if seconds >= least)


def _draw_rollout(figure: "Figure", timeline: Timeline, names: Sequence[str]) -> None:
    ratios = [1.0, *([1.0] * len(names))]
    panels = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    size, unit = period(timeline.ended - timeline.began)
    for axes in panels:
        framed(axes)
        for stretch in timeline.stretches:
            axes.axvline((stretch.began - timeline.began) / size, color=LINE, linewidth=1.4)
    _draw_weights(panels[0], timeline, size)
    for axes, name in zip(panels[1:], names, strict=True):
        _draw_guardrail(axes, timeline, name, size)
    length = (timeline.ended - timeline.began) / size or 1.0
    panels[-1].set(xlim=(-0.005 * length, 1.03 * length), xlabel=f"{unit} since the rollout began")
    figure.align_ylabels(panels)
    legend_below(figure, 7)


def _draw_weights(axes: "Axes", timeline: Timeline, size: float) -> None:
    times, users, mirrored = [], [], []
    for taken in timeline.rollout.state.history:
        step = timeline.rollout.plan.steps[taken.step]
        times.append((taken.at - timeline.began) / size)
        users.append(100 * taken.weight)
        is_shadow = step.mirrored and taken.action == "set_weight"
        mirrored.append(100 * step.mirrored if is_shadow else np.nan)
    times.append(1.03 * (timeline.ended - timeline.began) / size)
    if not np.isnan(mirrored).all():
        style = {"color": GREY, "linestyle": DASHED, "linewidth": 1.4, "label": "requests mirrored"}
        axes.step(times, [*mirrored, mirrored[-1]], where="post", **style)
    users.append(users[-1])
    axes.step(times, users, where="post", color=INK, linewidth=2, label="users with the new release")
    for stretch in timeline.stretches:
        if stretch.ended - stretch.began > LABELLED * (timeline.ended - timeline.began):
            place = ((stretch.began - timeline.began) / size, 104)
            axes.annotate(f" {stretch.step}", place, fontsize=8, annotation_clip=False)
    axes.set(ylim=(-4, 104), ylabel="share, %")
    axes.set_yticks([0, 50, 100])
    axes.set_title("What the new release got", loc="left", pad=16)


def _draw_guardrail(axes: "Axes", timeline: Timeline, name: str, size: float) -> None:
    title, ylabel, scale, none = _words(name)
    lasts: list[Finding] = []
    for stretch in timeline.stretches:
        known = [(look, each) for look in timeline.looks_at(stretch) for each in _of(look, name)]
        if not known:
            continue
        times = np.array([look.at - timeline.began for look, _ in known]) / size
        low, high = (scale * np.array([_bound(each, end) for _, each in known]) for end in ("low", "high"))
        axes.fill_between(times, low, high, color=FILL, linewidth=0, label="where the effect lies")
        axes.plot(times, np.transpose([low, high]), color=INK, linewidth=0.9)
        last, span = known[-1][1], (np.array([stretch.began, stretch.ended]) - timeline.began) / size
        allowed = {"color": RED, "linestyle": DASHED, "linewidth": 1.2, "label": "allowed"}
        axes.plot(span, [scale * (last.numbers["allowed"] or 0.0)] * 2, **allowed)
        _mark(axes, times[-1], last, scale)
        lasts.append(last)
    axes.set_title(title if lasts else f"{title}: nothing was known", loc="left")
    if lasts:
        axes.axhline(scale * none, color=GREY, linewidth=0.8, label="no effect")
        axes.set_ylim(*(scale * end for end in _shown(lasts, none)))
        axes.set_ylabel(ylabel)


def _of(look: Look, name: str) -> list[Finding]:
    return [each for each in look.findings if each.name == name and each.numbers]


def _bound(finding: Finding, end: str) -> float:
    """Without end where it is None."""
    value = finding.numbers[end]
    return value if value is not None else {"low": -1e9, "high": 1e9}[end]


def _mark(axes: "Axes", time: float, finding: Finding, scale: float) -> None:
    """On the bound that decides."""
    edge, shape, fill = MARKS[finding.outcome]
    value = scale * _bound(finding, "low" if finding.outcome == "harm" else "high")
    style = {"marker": shape, "s": 30, "c": fill, "edgecolors": edge, "linewidths": 1.4, "zorder": 4}
    axes.scatter([time], [value], label=WORDS[finding.outcome], **style)


def _shown(lasts: Sequence[Finding], none: float) -> tuple[float, float]:
    """From where to where the axis goes: what is allowed is always seen, and what is proved to be more."""
    allowed = max(each.numbers["allowed"] or 0.0 for each in lasts)
    lows, highs = ([_bound(each, end) for each in lasts] for end in ("low", "high"))
    unit = allowed - none or max(*lows, none) - none or 1.0
    proved = [1.25 * _bound(each, "low") for each in lasts if each.outcome == "harm"]
    top = max(allowed + 0.5 * unit, min(1.15 * max(highs), none + ROOM * unit), *proved)
    return min(none, max(min(lows), none - ROOM * unit / 2)) - 0.15 * (top - none), top


def _words(name: str) -> tuple[str, str, float, float]:
    """Title, unit, scale, and what stands for no effect."""
    said = name.replace("_", " ")
    if name.startswith("latency_"):
        return f"{said.removeprefix('latency ')} of latency, compared with stable's", "ratio", 1.0, 1.0
    if name in IN_POINTS:
        return IN_POINTS[name], "points", 100.0, 0.0
    return f"Loss of {said}", said, 1.0, 0.0


def _draw_strata(figure: "Figure", analysis: Analysis) -> None:
    axes = figure.subplots()
    framed(axes)
    rows = [(each.name, each.difference, f"{each.stable:,} + {each.canary:,}") for each in analysis.strata]
    rows += [("all users", analysis.overall, f"{analysis.users:,}")]
    rows += [("all, without strata", analysis.unstratified, f"{analysis.users:,}")]
    for place, (_, found, _) in enumerate(reversed(rows)):
        if found.value is None:
            continue
        color, shape = (GREY, "o") if place == 0 else (INK, "D") if place == 1 else (INK, "o")
        bounds = np.array([found.low, found.high], float)
        axes.plot(bounds, [place, place], color=color, linewidth=2.2 if place == 1 else 1.4)
        axes.plot(found.value, place, shape, color=color, markersize=6)
    axes.axhspan(-0.5, 1.5, color=BAND, zorder=0)
    axes.axvline(0, color=TEXT, linewidth=1, linestyle=DASHED)
    axes.set_yticks(range(len(rows)), [f"{name}  ({users})" for name, _, users in reversed(rows)])
    axes.set(ylim=(-0.5, len(rows) - 0.5), xlabel=f"{analysis.metric}, canary less stable, a user")
    level = f"{100 * (1 - analysis.alpha):g} %"
    axes.set_title(f"Difference by stratum (users), with {level} intervals that may be watched", loc="left")
