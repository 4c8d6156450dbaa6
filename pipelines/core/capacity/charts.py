"""The latency of a load test as pictures: against throughput, and by percentile."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.capacity.course import is_held
from pipelines.core.capacity.proof import Load, Step, Trial
from pipelines.core.picture import DASHED, INK, RED, TEXT, framed, legend_below, log_axis, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"candidate": INK, "production": "#b3bfca"}
WIDTHS, LAYERS = {"candidate": 1.6, "production": 3.2}, {"candidate": 3.0, "production": 2.0}
"""Of the two versions: where one lies on the other, both are seen."""
BLUES, GREEN, BLACK = ("#9ecae1", "#5fa2d0", "#1f4e79"), "#3a7d44", "#222222"
DOTTED = (0, (1, 2))
WIDE = 12
"""Rates further apart than so many times are on a logarithmic axis."""
PERCENTS = {2: "50", 10: "90", 100: "99", 1000: "99.9", 10_000: "99.99"}
"""Where the percentiles are: at the number of requests of which one takes longer."""


def throughput_chart(load: Load) -> bytes:
    """A PNG of p50 and p99, with its 95 % interval, against what was answered a second, of both versions on
    the same axes, with the promise and the knees. Hollow where the promise did not hold."""
    return picture(4.6, lambda figure: _draw_throughput(figure, load))


def percentile_chart(load: Load) -> bytes:
    """A PNG of the latency that so many of the answered requests did not exceed, from 50 to 99.99 %, of each
    load: the plot of HdrHistogram (Tene, hdrhistogram.org)."""
    return picture(4.4, lambda figure: _draw_percentiles(figure, load))


def trials(load: Load) -> dict[str, Trial]:
    """By their role; production only where a version serves."""
    found = {"candidate": load.candidate, "production": load.production}
    return {role: trial for role, trial in found.items() if trial is not None}


def _draw_throughput(figure: "Figure", load: Load) -> None:
    axes = figure.subplots()
    framed(axes)
    twice_rps, rates, latencies = 2 * load.expected_peak_rps, [2 * load.expected_peak_rps], [load.p99_ms]
    for role, trial in reversed(trials(load).items()):
        steps = _by_rate(trial)
        _draw_curve(axes, role, steps, load)
        rates += [step.stage.throughput_rps for step in steps]
        latencies += [value for step in steps for value in (step.stage.p50_ms, _highest(step))]
        says = (
            f"{role}: {'knee' if trial.knee_reached else 'knee not reached, beyond'} {trial.knee_rps:,.0f}/s"
        )
        axes.axvline(
            trial.knee_rps, color=COLORS[role], linewidth=WIDTHS[role] - 0.4, linestyle=DASHED, label=says
        )
    says = f"twice the expected peak: {twice_rps:,.0f}/s"
    axes.axvline(twice_rps, color=TEXT, linewidth=1.2, linestyle=DOTTED, label=says)
    says = f"promised p99: {load.p99_ms:g} ms"
    axes.axhline(load.p99_ms, color=RED, linewidth=1, linestyle=DASHED, label=says)
    log_axis(axes, "y", latencies)
    _scale_rates(axes, rates)
    axes.set(xlabel="answered, requests/s", ylabel="latency, ms")
    axes.set_title("Latency against throughput (hollow: the promise did not hold)", loc="left")
    legend_below(figure, 3, is_sorted=True)


def _by_rate(trial: Trial) -> list[Step]:
    """What was answered at some rate, in the order of the rates offered."""
    steps = [step for step in trial.steps if step.kind != "soak" and step.stage.throughput_rps]
    return sorted(steps, key=lambda step: step.stage.rate_rps)


def _highest(step: Step) -> float:
    """The upper end of the p99's interval; where there are too few values to have one, the largest."""
    return min(step.stage.p99_high_ms, step.stage.max_ms)


def _draw_curve(axes: "Axes", role: str, steps: list[Step], load: Load) -> None:
    if not steps:
        return
    color, layer, stages = COLORS[role], LAYERS[role], [step.stage for step in steps]
    answered, p50, p99, low = np.array(
        [(stage.throughput_rps, stage.p50_ms, stage.p99_ms, stage.p99_low_ms) for stage in stages]
    ).T
    reach = np.maximum(0, [p99 - low, [_highest(step) for step in steps] - p99])
    axes.plot(
        answered, p50, color=color, linewidth=WIDTHS[role] / 2, marker=".", label=f"{role}: p50", zorder=layer
    )
    says = f"{role}: p99 with its 95 % interval"
    bars = {"elinewidth": 1.2, "capsize": 3, "zorder": layer, "label": says}
    axes.errorbar(answered, p99, reach, color=color, linewidth=WIDTHS[role], **bars)
    fills = [color if is_held(step.stage, load.p99_ms) else "white" for step in steps]
    axes.scatter(
        answered, p99, s=22 * WIDTHS[role], c=fills, edgecolors=color, linewidths=1.4, zorder=layer + 0.5
    )


def _scale_rates(axes: "Axes", rates: list[float]) -> None:
    if max(rates) > WIDE * min(rates):
        return log_axis(axes, "x", rates)
    axes.set_xlim(0, 1.05 * max(rates))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _draw_percentiles(figure: "Figure", load: Load) -> None:
    found, highest = trials(load), [load.p99_ms]
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (role, trial) in zip(panels, found.items(), strict=True):
        framed(axes)
        for style, step in _styles(trial):
            highest += _draw_percentile(axes, style, step)
        axes.axhline(load.p99_ms, color=RED, linewidth=1, linestyle=DASHED, label="promised p99")
        axes.plot(100, load.p99_ms, "D", color=RED, markersize=5)
        axes.set(xscale="log", xlim=(1.8, 11_500), xlabel="percentile of the answered requests, %")
        axes.set_xticks([*PERCENTS], PERCENTS.values())
        axes.set_xticks([], minor=True)
        axes.set_title(f"{role.capitalize()}, version {trial.version} as {trial.rung}", loc="left")
    log_axis(panels[0], "y", highest)
    panels[0].set_ylabel("latency, ms")
    legend_below(figure, 6)


def _styles(trial: Trial) -> Iterator[tuple[dict[str, Any], Step]]:
    """The steps whose percentiles are drawn, and how: of the soak the last."""
    for color, step in zip(BLUES, trial.of("peak"), strict=False):
        yield {"color": color, "label": f"{step.stage.name}, {step.stage.rate_rps:,.0f}/s"}, step
    for step in trial.of("overload")[-1:]:
        yield {"color": BLACK, "label": f"overload, {step.stage.rate_rps:,.0f}/s"}, step
    for step in trial.of("soak")[-1:]:
        label = f"end of the soak, {step.stage.rate_rps:,.0f}/s"
        yield {"color": GREEN, "linestyle": DASHED, "label": label}, step


def _draw_percentile(axes: "Axes", style: dict[str, Any], step: Step) -> list[float]:
    """The ms that were drawn, up to the percentile above which there is one request."""
    from hdrh.histogram import HdrHistogram

    counts = HdrHistogram.decode(step.histogram)
    requests = counts.get_total_count()
    if requests <= 2:
        return []
    nines = np.geomspace(2, min(10_000, requests), 200)
    micros = counts.get_percentile_to_value_dict([100 - 100 / nine for nine in nines])
    values = np.array(list(micros.values())) / 1000
    axes.plot(nines, values, linewidth=1.8, **style)
    return values.tolist()
