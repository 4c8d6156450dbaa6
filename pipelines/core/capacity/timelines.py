"""What changed while a release was kept busy, as pictures: latencies, memory, open files."""

from typing import TYPE_CHECKING

import numpy as np

from pipelines.core.capacity.charts import BLUES
from pipelines.core.capacity.gate import LEAST_GROWTH_MIB, MOST_DESCRIPTORS
from pipelines.core.capacity.proof import Load, Step
from pipelines.core.latency import REFUSED, percentile
from pipelines.core.picture import DASHED, INK, RED, TEXT, framed, legend_below, log_axis, picture

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_DOTS, SLICES = 2500, 40
KINDS = ("overload", "soak")
LEAST_SPANS = {"memory_mib": 2 * LEAST_GROWTH_MIB, "descriptors": 2.0 * MOST_DESCRIPTORS}
"""An axis spans at least twice what the gate lets grow, so that noise does not look like a leak."""
WORDS = {"memory_mib": "Memory, MiB", "descriptors": "Open files and sockets"}


def time_chart(load: Load, samples: "pd.DataFrame") -> bytes:
    """A PNG of the latency of the candidate's requests over the overload and the soak, with the p99 of each
    slice of time and the refused; as dots, where there are too many, evenly chosen ones. `samples` has the
    columns release, stage, intended_s, latency_ms and status."""
    return picture(3.6, lambda figure: _draw_times(figure, load, samples))


def memory_chart(load: Load) -> bytes:
    """A PNG of the memory and the descriptors of all the candidate's processes after each part of the
    soak."""
    return picture(2.5, lambda figure: _draw_memory(figure, load.candidate.of("soak")))


def _draw_times(figure: "Figure", load: Load, samples: "pd.DataFrame") -> None:
    kinds = [kind for kind in KINDS if load.candidate.of(kind)] or ["soak"]
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        steps = load.candidate.of(kind)
        framed(axes)
        if steps:
            _draw_time(axes, *_course(samples, steps))
            axes.set_title(f"{kind.capitalize()}, {steps[-1].stage.rate_rps:,.0f}/s offered", loc="left")
        _draw_limits(axes, load)
        axes.set_xlabel("seconds, at the intended start of the request")
    log_axis(panels[0], "y", [load.p99_ms, load.max_latency_ms, *_ends(samples)])
    panels[0].set_ylabel("latency, ms")
    legend_below(figure, 6)


def _ends(samples: "pd.DataFrame") -> tuple[float, ...]:
    """The shortest and the longest latency."""
    latency = samples["latency_ms"].to_numpy()
    latency = latency[latency > 0]
    return (float(latency.min()), float(latency.max())) if len(latency) else ()


def _draw_limits(axes: "Axes", load: Load) -> None:
    limits = {f"deadline: {load.max_latency_ms:g} ms": (load.max_latency_ms, TEXT)}
    limits |= {f"promised p99: {load.p99_ms:g} ms": (load.p99_ms, RED)}
    if load.max_latency_ms == load.p99_ms:
        limits = {f"promised p99, and deadline: {load.p99_ms:g} ms": (load.p99_ms, RED)}
    for says, (limit_ms, color) in limits.items():
        axes.axhline(limit_ms, color=color, linewidth=1, linestyle=DASHED, label=says)


def _draw_time(axes: "Axes", at: np.ndarray, latency: np.ndarray, status: np.ndarray) -> None:
    ok, refused = (status >= 200) & (status < 300), np.isin(status, REFUSED)
    kinds = ((ok, BLUES[0], "answered"), (refused, RED, "refused"), (~ok & ~refused, "black", "failed"))
    for which, color, word in kinds:
        if which.any():
            some = np.flatnonzero(which)[:: max(1, int(which.sum()) // MOST_DOTS)]
            axes.plot(at[some], latency[some], ".", color=color, markersize=2, label=word)
    middles, p99 = p99_over_time(at[ok], latency[ok])
    axes.plot(middles, p99, color=INK, linewidth=1.5, label="p99 of the answered")


def _course(samples: "pd.DataFrame", steps: list[Step]) -> tuple[np.ndarray, ...]:
    """When, how long and with which status, of the candidate's stages one after the other."""
    release, stage = samples["release"].to_numpy(), samples["stage"].to_numpy()
    at, latency, status = (samples[name].to_numpy() for name in ("intended_s", "latency_ms", "status"))
    began = np.cumsum([0.0, *(step.stage.seconds for step in steps)])
    own = [(release == "candidate") & (stage == step.stage.name) for step in steps]
    later = [at[which] + start for which, start in zip(own, began, strict=False)]
    return np.concatenate(later), *(np.concatenate([of[which] for which in own]) for of in (latency, status))


def p99_over_time(at: np.ndarray, latency: np.ndarray) -> tuple[list[float], list[float]]:
    """The middle of each slice of time in which there are requests, and their p99."""
    edges = np.linspace(0, np.max(at, initial=1e-9), SLICES + 1)
    slices = np.digitize(at, edges[1:-1])
    known = [place for place in range(SLICES) if (slices == place).any()]
    middles = (edges[:-1] + edges[1:]) / 2
    return [middles[place] for place in known], [percentile(latency[slices == place], 99) for place in known]


def _draw_memory(figure: "Figure", steps: list[Step]) -> None:
    ends = np.cumsum([step.stage.seconds for step in steps])
    for axes, (name, word) in zip(figure.subplots(1, 2), WORDS.items(), strict=True):
        framed(axes)
        values = [getattr(step.service, name) for step in steps]
        axes.plot(ends, values, color=INK, marker="o", markersize=5)
        low, high = min(values, default=0), max(values, default=0)
        room = max(0.15 * (high - low), (LEAST_SPANS[name] - (high - low)) / 2)
        axes.set(ylim=(max(0, low - room), high + room), xlabel="seconds of the soak")
        axes.set_xlim(left=0)
        axes.ticklabel_format(useOffset=False)
        axes.set_title(f"{word}, all processes", loc="left")
