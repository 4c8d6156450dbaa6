"""An event loop that wakes on time, in a thread where nothing else stops it."""

import asyncio
import gc
import select
import selectors
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class ExactSelector(selectors.DefaultSelector):
    """epoll() counts in milliseconds and wakes late; select() counts in microseconds, but looks at every
    connection each time. Here select() looks at one thing, which is epoll."""

    def select(self, timeout: float | None = None) -> list:
        if timeout is None or timeout > 0:
            ready, _, _ = select.select((self.fileno(),), (), (), timeout)
            if not ready:
                return []
        return super().select(0)


def run_exactly(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, run on a loop of its own; in a thread of its own where this one has a loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(work)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_run, work).result()


def _run(work: Coroutine[Any, Any, T]) -> T:
    """What is in memory is kept from the garbage collector, which takes a fifth of a second to go through the
    pipeline's modules."""
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(ExactSelector())) as runner:
            return runner.run(work)
    finally:
        gc.unfreeze()
