"""The load generator: requests sent when they are due, whether or not earlier ones were answered."""

import asyncio
import gc
import ipaddress
import itertools
import selectors
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from pipelines.core.errors import SettingsInvalid
from pipelines.core.latency import Samples, Stage, arrivals, summarise

if TYPE_CHECKING:
    import aiohttp

GONE_AFTER_S = 1.0
"""A target that has refused connections for so long will not come back."""
Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the requests sent in it and those planned."""


@dataclass(frozen=True)
class LoadResult:
    """Every request (stage, intended_s and sent_s since the stage began, latency_ms from the intended time,
    HTTP status or 0 for no answer), and the figures of each stage."""

    samples: pa.Table
    stages: list[Stage]


class Traffic(ABC):
    """A source of load."""

    @abstractmethod
    def run(
        self,
        url: str,
        bodies: Sequence[bytes],
        stages: Sequence[tuple[str, float, float]],
        seed: int,
        on_progress: Progress | None = None,
    ) -> LoadResult:
        """POST the JSON bodies in turn to a URL of this machine, in stages of (name, rate_rps, seconds) one
        after the other. A service that is gone ends the run early. Raises SettingsInvalid."""


class OpenLoop(Traffic):
    """Poisson arrivals over kept-alive connections, from one event loop.

    `timeout_s` is per request, from when it was sent. Beyond `max_connections` requests in flight a request
    waits for a connection, and the wait counts as its latency. `max_requests` bounds a whole run.
    """

    def __init__(
        self, timeout_s: float = 10.0, max_connections: int = 512, max_requests: int = 1_000_000
    ) -> None:
        self.timeout_s, self.max_connections, self.max_requests = timeout_s, max_connections, max_requests

    def run(
        self,
        url: str,
        bodies: Sequence[bytes],
        stages: Sequence[tuple[str, float, float]],
        seed: int,
        on_progress: Progress | None = None,
    ) -> LoadResult:
        _check_local(url)
        total = sum(rate_rps * seconds for _, rate_rps, seconds in stages)
        if not bodies:
            raise SettingsInvalid("The rows to send in the load test", 0, "give it at least one")
        if total > self.max_requests:
            mend = f"a run may send {self.max_requests:,} requests; lower the rates or shorten the stages"
            raise SettingsInvalid("The load in requests", round(total), mend)
        return _run_to_end(self._run(url, bodies, stages, seed, on_progress or _ignore))

    async def _run(self, url, bodies, stages, seed: int, on_progress: Progress) -> LoadResult:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=self.max_connections)
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        headers = {"content-type": "application/json"}
        tables, summaries, turns = [], [], itertools.cycle(bodies)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
            target = _Target(session, url)
            for number, (name, rate_rps, seconds) in enumerate(stages):
                times = arrivals(rate_rps, seconds, seed + number)
                samples = await _send_all(target, times, turns, partial(on_progress, name))
                tables.append(_table(name, samples))
                summaries.append(summarise(name, rate_rps, seconds, len(times), samples))
        return LoadResult(pa.concat_tables(tables), summaries)


class _Target:
    """What is loaded, and whether it is still there."""

    def __init__(self, session: "aiohttp.ClientSession", url: str) -> None:
        self._session, self._url = session, url
        self._refused_since: float | None = None

    @property
    def gone(self) -> bool:
        return self._refused_since is not None and time.perf_counter() - self._refused_since > GONE_AFTER_S

    async def post(self, body: bytes) -> int:
        """The status of the answer, 0 when there is none. A redirect is not followed: it may lead away."""
        import aiohttp

        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                await response.read()
                self._refused_since = None
                return response.status
        except aiohttp.ClientConnectorError:
            self._refused_since = self._refused_since or time.perf_counter()
            return 0
        except (aiohttp.ClientError, TimeoutError):
            return 0


async def _send_all(
    target: _Target, times: np.ndarray, bodies: Iterator[bytes], on_progress: Callable[[int, int], None]
) -> Samples:
    """Send at `times`, until all are sent or the target is gone, and wait for the answers."""
    sent_s, latency_ms, status = np.zeros((3, len(times)))
    start, count = time.perf_counter(), 0

    def now_s() -> float:
        return time.perf_counter() - start

    async def send(number: int, body: bytes) -> None:
        sent_s[number] = now_s()
        status[number] = await target.post(body)
        latency_ms[number] = (now_s() - times[number]) * 1000

    async with asyncio.TaskGroup() as requests:
        for count, (due_s, body) in enumerate(zip(times, bodies, strict=False)):
            await asyncio.sleep(max(0.0, due_s - now_s()))
            if target.gone:
                break
            requests.create_task(send(count, body))
            on_progress(count + 1, len(times))
        else:
            count = len(times)
    return Samples(times[:count], sent_s[:count], latency_ms[:count], status[:count].astype(np.int64))


def _run_to_end(work: Coroutine[None, None, LoadResult]) -> LoadResult:
    """Run on a loop of our own, in a thread of its own if this one has a loop that runs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run_on_new_loop(work)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_run_on_new_loop, work).result()


def _run_on_new_loop(work: Coroutine[None, None, LoadResult]) -> LoadResult:
    """The loop waits by select(), which is exact; epoll is up to a millisecond late each time. What is in
    memory is kept from the garbage collector, which needs a fifth of a second for the pipeline's modules."""
    gc.freeze()
    try:
        with asyncio.Runner(
            loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
        ) as runner:
            return runner.run(work)
    finally:
        gc.unfreeze()


def _table(stage: str, samples: Samples) -> pa.Table:
    names = pa.array([stage] * len(samples.status), pa.string())
    columns = {name: pa.array(values) for name, values in vars(samples).items()}
    return pa.table({"stage": names, **columns})


def _check_local(url: str) -> None:
    """Load is only ever put on this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if parts.scheme != "http" or not local:
        raise SettingsInvalid("The target of the load test", url, "it must be http://127.0.0.1:PORT/…")


def _ignore(stage: str, sent: int, planned: int) -> None:
    """Nobody watches."""
