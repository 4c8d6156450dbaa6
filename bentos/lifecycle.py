"""Ending without a lost request, and dying without being missed for long.

A worker that is told to end says so on /readyz first and listens on for `drain_seconds`, so that routers stop
sending before the listener closes; then uvicorn answers what it has accepted. A worker that died is replaced
by BentoML's supervisor, which looks only every ten seconds unless it is told to look more often. One whose
supervisor died ends as well: it would keep the port from the service that is started in its place.
"""

import asyncio
import ctypes
import logging
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

logger = logging.getLogger("bentos.lifecycle")

LOOK_SECONDS = 1.0
"""How often the supervisor looks whether its workers live."""
PR_SET_PDEATHSIG = 1
"""From linux/prctl.h: the signal to get when the parent has died."""


def drain_first(unready: Callable[[], None], drain_seconds: float) -> None:
    """On SIGTERM call `unready`, and only `drain_seconds` later whatever was to be done on SIGTERM before.
    Call on the event loop, from the main thread. A second SIGTERM does not wait. On Linux it comes as well
    when BentoML's supervisor has died, however it did."""
    loop, former = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    if not callable(former) or threading.current_thread() is not threading.main_thread():
        return  # nobody serves here: a test, or an application that runs ours inside it

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, former)
        logger.info("told to end: unready now, listening on for %g s", drain_seconds)
        unready()
        loop.call_soon_threadsafe(loop.call_later, drain_seconds, former, number, frame)

    signal.signal(signal.SIGTERM, end)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def replace_dead_workers_soon() -> None:
    """Make BentoML's supervisor look for dead workers every second. It takes no setting for this; in the
    worker itself, where nothing is supervised, the call changes nothing."""
    from bentoml._internal.utils import circus

    class Watchful(circus.Arbiter):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "check_delay": LOOK_SECONDS})

    circus.Arbiter = Watchful
