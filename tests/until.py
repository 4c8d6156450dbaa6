"""Waiting for what other processes bring about, which is only seen by looking."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

PATIENCE_SECONDS, PAUSE_SECONDS = 90, 0.02
"""Far more than anything takes: a machine may have other work."""


def until(
    found: Callable[[], Found], tell: Callable[[], object] = lambda: "", seconds: float = PATIENCE_SECONDS
) -> Found:
    """The first true value of `found()`. Where there is none in time, `tell` says what there was."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"it did not happen: {tell()}"
        time.sleep(PAUSE_SECONDS)
    return value
