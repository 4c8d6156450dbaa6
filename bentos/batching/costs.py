"""What a batch takes in the model: measured beforehand, corrected by every run.

The predictions decide who is let in, how a batch is cut and whether to wait for a fuller one, so they must
not run wild: they are positive, never fall when rows or length grow, and one stalled run moves them little.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from bentos.manifest import Cost

UNKNOWN_SECONDS = 1e-3
"""Of a model that was never measured: short enough to be let in, too long to block the event loop with."""
LEAST_SECONDS = 1e-6
SHARE = 0.2
"""Of the way to what was just measured, in logarithms: about seven runs take a prediction to a new level."""
MOST = math.log(2)
"""One run counts as at most twice or half of the prediction, so a stall moves it by 15 %."""
STALE = 0.05
"""A prediction may lag so far behind what is known, and need not be made anew for each request."""
TRUSTED = 3
"""Cells with fewer measurements go by their mean, unbounded; those of a given table count as trusted."""


class Costs:
    """Seconds of a batch of some rows and length, from a table of (rows, length, ms).

    Between its rows, and beyond the last, predictions are linear; between its lengths too, beyond the last in
    proportion to it. The table's grid is filled up with the powers of two among the rows, where runs may show
    what no measurement told. Without a table, the first run stands for all until others correct it.
    """

    def __init__(self, table: Sequence[Cost] = (), max_rows: int = 64, lengths: Sequence[int] = ()) -> None:
        self._lengths = sorted({length for _, length, _ in table} or set(lengths) or {0})
        rows = {rows for rows, _, _ in table}
        self._rows = sorted(rows | {2**power for power in range(max([*rows, max_rows]).bit_length())})
        self._cells = [self._curve(table, length) for length in self._lengths] if table else []
        self._seen = [[TRUSTED if table else 0] * len(self._rows) for _ in self._lengths]
        for at in range(len(self._cells)):
            for column in range(len(self._rows)):
                self._keep_order(at, column, self._cells[at][column])
        self._told = [[*cells] for cells in self._cells]
        self._known: dict[tuple[int, int], float] = {}

    def seconds(self, rows: int, length: int = 0) -> float:
        """The predicted time in the model; never 0 or less."""
        found = self._known.get((rows, length))
        if found is None:
            found = self._known[rows, length] = self._predicted(self._told, rows, length)
        return found

    def observe(self, rows: int, length: int, seconds: float) -> None:
        """A batch took so long."""
        seconds = max(seconds, LEAST_SECONDS)
        if not self._cells:
            self._cells = [[seconds] * len(self._rows) for _ in self._lengths]
        wrong = math.log(seconds / self._predicted(self._cells, rows, length))
        for at, nearness in _nearest(self._lengths, length):
            for column, closeness in _nearest(self._rows, rows):
                self._correct(at, column, wrong, nearness * closeness)
                if not self._told or abs(self._cells[at][column] / self._told[at][column] - 1) > STALE:
                    self._told = [[*cells] for cells in self._cells]
                    self._known.clear()

    def _predicted(self, grid: list[list[float]], rows: int, length: int) -> float:
        if not grid:
            return UNKNOWN_SECONDS
        longest = self._lengths[-1]
        if length > longest > 0:
            return self._predicted(grid, rows, longest) * length / longest
        # Beyond the last rows a shorter length's line may be steeper and cross that of a longer one.
        lowest = max([_at(self._rows, cells, rows) for cells in grid[: self._below(length)]])
        lines = [(_at(self._rows, grid[at], rows), near) for at, near in _nearest(self._lengths, length)]
        return max(LEAST_SECONDS, sum([max(seconds, lowest) * near for seconds, near in lines]))

    def _below(self, length: int) -> int:
        """How many lengths of the grid are at most `length`, at least one."""
        return max(1, bisect_left(self._lengths, length + 1))

    def _correct(self, at: int, column: int, wrong: float, weight: float) -> None:
        self._seen[at][column] += weight > 0.5
        seen = self._seen[at][column]
        step = wrong / max(1, seen) if seen < TRUSTED else max(-MOST, min(MOST, wrong)) * SHARE
        self._keep_order(at, column, self._cells[at][column] * math.exp(step * weight))

    def _keep_order(self, at: int, column: int, value: float) -> None:
        """Set a cell; no smaller batch costs more than it, no larger one less."""
        self._cells[at][column] = value
        for cells in self._cells[: at + 1]:
            for before in range(column + 1):
                cells[before] = min(cells[before], value)
        for cells in self._cells[at:]:
            for behind in range(column, len(cells)):
                cells[behind] = max(cells[behind], value)

    def _curve(self, table: Sequence[Cost], length: int) -> list[float]:
        """The seconds of one length at all rows of the grid."""
        points = dict(sorted((rows, max(ms / 1000, LEAST_SECONDS)) for rows, of, ms in table if of == length))
        measured, seconds = [*points], [*accumulate(points.values(), max)]
        return [_at(measured, seconds, rows) for rows in self._rows]


def _nearest(grid: Sequence[int], value: int) -> list[tuple[int, float]]:
    """The places in the grid on both sides of a value, each with its share; its ends stand for all beyond."""
    at = bisect_left(grid, value)
    if at == len(grid):
        return [(at - 1, 1.0)]
    if at == 0 or grid[at] == value:
        return [(at, 1.0)]
    share = (value - grid[at - 1]) / (grid[at] - grid[at - 1])
    return [(at - 1, 1 - share), (at, share)]


def _at(grid: Sequence[int], seconds: Sequence[float], rows: int) -> float:
    """On the line through the two nearest points; in proportion where there is but one, and at least in
    proportion below the first."""
    if len(grid) == 1:
        return seconds[0] * (rows / grid[0] if rows > grid[0] else 1)
    at = min(max(bisect_left(grid, rows), 1), len(grid) - 1)
    (r0, s0), (r1, s1) = (grid[at - 1], seconds[at - 1]), (grid[at], seconds[at])
    value = s0 + (s1 - s0) * (rows - r0) / (r1 - r0)
    return max(value, s0 * rows / r0) if rows < r0 else value
