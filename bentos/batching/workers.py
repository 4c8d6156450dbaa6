"""A thread that runs what the event loop gives it, and hands the results back."""

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

CLOSE_SECONDS = 5.0
"""How long a run that is under way at the end may still take."""


class Worker:
    """Threads, as many as runs may overlap on one engine, that work off one inbox in order. Who has a token
    may take from the inbox, at either end."""

    def __init__(self, loop: AbstractEventLoop, overlap: int = 1) -> None:
        self._loop, self._inbox, self._tokens = loop, deque(), SimpleQueue()
        self._threads = [Thread(target=self._work, name="engine", daemon=True) for _ in range(overlap)]
        for thread in self._threads:
            thread.start()

    def give(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Run `work`, which must not raise, and call `then` with the result on the loop."""
        self._inbox.append((work, then))
        self._tokens.put(True)

    def take_back(self) -> bool:
        """Take back what was given last; False where that has begun. What was given before it is left, even
        where no thread has come round to it yet."""
        try:
            self._tokens.get_nowait()
        except Empty:
            return False
        self._inbox.pop()
        return True

    def close(self) -> None:
        """End the threads once what they were given is done."""
        for _ in self._threads:
            self._tokens.put(False)
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        while self._tokens.get():
            work, then = self._inbox.popleft()
            result = work()
            try:
                self._loop.call_soon_threadsafe(then, result)
            except RuntimeError:  # the loop was closed, nobody listens
                return
            del work, then, result  # or the last batch stays in memory until the next comes
