"""Whether those who get an answer come back at once with the next request: what tells a closed loop from an
open one.

Where they do, an engine that never waits runs one early bird, then all others, then one again: half of what
it could do. So the share of answered rows that come back within a short window after a batch is learned, less
those that would have come anyway at the rate outside such windows. In an open loop nothing is left of it.
"""

MEMORY = 0.1
"""The weight of the last batch. Ten batches tell a new kind of traffic."""
MOST = 0.5
"""The share of rows that must come back to be waited for. An open loop, bursts and all, stays below."""
DOUBT = 8.0
"""Rows that did not come back, assumed before anything was seen."""


class Returns:
    """Fed with completions and arrivals; tells how many rows are due, and until when to wait for them."""

    def __init__(self) -> None:
        self._came, self._rows = 0.0, DOUBT
        self._apart_rows, self._apart_seconds = 0.0, 0.0
        self._delay, self._spread = 0.0, 0.0
        self._opened = self._closes = self._last = float("-inf")
        self._answered = self._inside = self._outside = 0

    def completed(self, rows: int, window_seconds: float, now: float) -> None:
        """A batch of `rows` is answered; they count as coming back within the window."""
        self._learn(now)
        self._answered, self._inside, self._outside = rows, 0, 0
        self._opened = self._last = now
        self._closes = now + window_seconds

    def arrived(self, rows: int, now: float) -> None:
        if now <= self._closes:
            self._inside += rows
            self._last = now
        else:
            self._outside += rows

    def due(self, now: float) -> int:
        """How many rows of the last batch may still come back; 0 where most do not, or the time is over."""
        if now >= self.until or self._came < MOST * self._rows:
            return 0
        return max(0, round(self._answered * self._came / self._rows - self._inside))

    @property
    def until(self) -> float:
        """When the last of them usually is back: the mean and two deviations, at most the window."""
        return min(self._closes, self._opened + self._delay + 2 * self._spread)

    def _learn(self, now: float) -> None:
        if not self._answered:
            return
        closed = min(now, self._closes)
        self._apart_rows += MEMORY * (self._outside - self._apart_rows)
        self._apart_seconds += MEMORY * (now - closed - self._apart_seconds)
        usual = self._apart_rows / self._apart_seconds if self._apart_seconds > 0 else 0.0
        came = min(self._answered, self._inside - usual * (closed - self._opened))
        self._came += MEMORY * (came - self._came)
        self._rows += MEMORY * (self._answered - self._rows)
        if self._inside:
            delay = self._last - self._opened
            self._spread += MEMORY * (abs(delay - self._delay) - self._spread)
            self._delay += MEMORY * (delay - self._delay)
