"""A figure as a PNG, and what all charts have in common.

Drawn without pyplot, which keeps figures in global state and may want a display: the picture is a value.
"""

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT, LINE, BAND = "#444444", "#d9dee3", "#eef3f8"
INK, GREY, RED, AMBER = "#1f4e79", "#73869a", "#c0392b", "#b9770e"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.titleweight": "bold",
}
WIDTH = 11
"""Inches of the picture."""
DOTS_PER_INCH, SHADES = 105, 192
DASHED = (0, (5, 3))
MOST_TICKS = 11
"""Of a logarithmic axis; one that would have more has powers of ten only."""
ROUND = tuple(digit * 10.0**power for power in range(-4, 10) for digit in (1, 2, 5))


def picture(height: float, draw: Callable[["Figure"], None]) -> bytes:
    """A PNG of what `draw` puts on a figure so many inches high, whatever style a notebook has set."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):
        figure = Figure((WIDTH, height), DOTS_PER_INCH, layout="constrained")
        draw(figure)
        return _png(figure)


def framed(axes: "Axes") -> None:
    """A grid and no box."""
    axes.grid(color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=TEXT, pad=5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)


def log_axis(axes: "Axes", way: str, values: Iterable[float]) -> None:
    """A logarithmic axis, "x" or "y", from a round number below all values to one above, in plain numbers."""
    known = [value for value in values if value > 0] or [1.0]
    low = max((tick for tick in ROUND if tick <= min(known)), default=ROUND[0])
    high = min((tick for tick in ROUND if tick >= max(known) and tick > low), default=ROUND[-1])
    ticks = [tick for tick in ROUND if low <= tick <= high]
    if len(ticks) > MOST_TICKS:
        ticks = [tick for tick in ticks if f"{tick:e}".startswith("1")]
    axes.set(**{f"{way}scale": "log", f"{way}lim": (low, high)})
    axis = getattr(axes, f"{way}axis")
    axis.set_ticks(ticks, [f"{tick:,g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def legend_below(figure: "Figure", columns: int, is_sorted: bool = False) -> None:
    """One legend for all panels, below them, where it hides nothing."""
    found = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {label: handle for pair in found for handle, label in zip(*pair, strict=True)}
    labels = sorted(handles) if is_sorted else list(handles)
    shown = [handles[label] for label in labels]
    place = "outside lower center"
    figure.legend(shown, labels, loc=place, ncols=columns, frameon=False, markerscale=2)


def _png(figure: "Figure") -> bytes:
    """The figure in few colours, which makes a third of the bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(SHADES)
    png = BytesIO()
    picture.save(png, "PNG", optimize=True)
    return png.getvalue()
