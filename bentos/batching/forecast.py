"""How long batches and queues will take on one engine, by the plan and the costs of a batch."""

from bisect import bisect_left

from bentos.batching.costs import Costs
from bentos.manifest import Plan


class Forecast:
    """Costs of batches as the plan shapes them: an engine with buffers of its own fills a batch up to the
    next padded size and to the end of its bucket of lengths."""

    def __init__(self, plan: Plan, costs: Costs) -> None:
        self._most, self._costs = plan.max_batch_size, costs
        self._padded, self._ends = sorted(plan.padded_batch_sizes), sorted(plan.lengths)
        self.seconds = self._filled_up if self._padded else costs.seconds
        """Of one batch, by its rows and length."""

    def observe(self, rows: int, length: int, seconds: float) -> None:
        """A batch took so long."""
        self._costs.observe(*self._shape(rows, length), seconds)

    def drain(self, rows: int, length: int) -> float:
        """Of so many rows, in batches as large as may be."""
        if rows <= self._most:
            return self.seconds(rows, length) if rows else 0.0
        full, rest = divmod(rows, self._most)
        return full * self.seconds(self._most, length) + self.drain(rest, length)

    def filled(self, rows: int) -> int:
        """Rows of whole batches: where more than one waits, others will come and fill the last."""
        return rows if rows <= self._most else -(-rows // self._most) * self._most

    def window(self, rows: int, length: int) -> float:
        """How long rows of a batch may take to come back and be worth waiting for: at most what a fuller
        batch saves, the fixed part of a run; and at most half of a run, so that between such windows there is
        time to see who comes anyway."""
        whole = self.seconds(rows, length)
        fixed = 2 * self.seconds((rows + 1) // 2, length) - whole
        return max(0.0, min(fixed, whole / 2))

    def _filled_up(self, rows: int, length: int = 0) -> float:
        return self._costs.seconds(*self._shape(rows, length))

    def _shape(self, rows: int, length: int) -> tuple[int, int]:
        row, end = bisect_left(self._padded, rows), bisect_left(self._ends, length)
        return (
            self._padded[row] if row < len(self._padded) else rows,
            self._ends[end] if self._padded and end < len(self._ends) else length,
        )
