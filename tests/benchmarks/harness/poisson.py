"""Requests sent when they are due, over raw sockets.

What the pipeline's load generator does with a library for HTTP costs it more than a server needs to refuse a
request, so under five times the load it, and not the server, would be what is measured. This one reads of an
answer only its status and where it ends.
"""

import asyncio
import gc
import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import numpy as np

from pipelines.core.latency import Samples

MAX_CONNECTIONS = 512
"""Beyond them requests wait, which counts as their latency, as does all that goes before."""
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


def send(
    url: str, bodies: Sequence[bytes], headers: Mapping[str, str], times: np.ndarray, patience_seconds: float
) -> Samples:
    """POST the bodies in turn at `times` (seconds from the start). What has no answer so long after the last
    was sent has status 0."""
    gc.collect()
    gc.freeze()  # a collection of all that is imported here would stop the generator for a moment
    try:
        return asyncio.run(_Sender(url, bodies, headers, times).run(patience_seconds))
    finally:
        gc.unfreeze()


class _Sender:
    def __init__(self, url: str, bodies: Sequence[bytes], headers: Mapping[str, str], times) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname, parts.port)
        head = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", *map(": ".join, headers.items())]
        self.requests = [
            "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body for body in bodies
        ]
        self.times, self.status = times, np.zeros(len(times), np.int64)
        self.sent_s, self.ended_s = np.full((2, len(times)), np.nan)
        self.connections: set[_Connection] = set()
        self.free: list[_Connection] = []
        self.waiting: deque[int] = deque()
        self.opening: set[asyncio.Task] = set()
        self.answered = 0

    async def run(self, patience_seconds: float) -> Samples:
        self.loop, self.done = asyncio.get_running_loop(), asyncio.Event()
        self.start = self.loop.time()
        number = 0
        while number < len(self.times):
            now_s = self.now_s()
            while number < len(self.times) and self.times[number] <= now_s:
                self.sent_s[number] = now_s
                self.send(number)
                number += 1
            if number < len(self.times):
                await asyncio.sleep(max(0, self.times[number] - self.now_s()))
        with suppress(TimeoutError):
            await asyncio.wait_for(self.done.wait(), patience_seconds)
        for connection in self.connections:
            connection.transport.abort()
        self.ended_s[np.isnan(self.ended_s)] = self.now_s()
        return Samples(self.times, self.sent_s, (self.ended_s - self.times) * 1000, self.status)

    def now_s(self) -> float:
        return self.loop.time() - self.start

    def send(self, number: int) -> None:
        """On a free connection, or a new one, or the next that gets free."""
        if self.free:
            self.free.pop().send(number, self.requests[number % len(self.requests)])
            return
        self.waiting.append(number)
        if len(self.connections) + len(self.opening) < MAX_CONNECTIONS:
            task = self.loop.create_task(self.connect())
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)

    async def connect(self) -> None:
        with suppress(OSError):  # refused: the request waits for another, or has no answer
            await self.loop.create_connection(lambda: _Connection(self), *self.address)

    def ready(self, connection: "_Connection") -> None:
        if self.waiting:
            number = self.waiting.popleft()
            connection.send(number, self.requests[number % len(self.requests)])
        else:
            self.free.append(connection)

    def ended(self, number: int, status: int) -> None:
        self.ended_s[number], self.status[number] = self.now_s(), status
        self.answered += 1
        if self.answered == len(self.times):
            self.done.set()


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, sender: _Sender) -> None:
        self.sender, self.number, self.buffer = sender, -1, b""

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.sender.connections.add(self)
        self.sender.ready(self)

    def send(self, number: int, request: bytes) -> None:
        self.number, self.buffer = number, b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.number >= 0 and _complete(self.buffer):
            number, self.number = self.number, -1
            self.sender.ended(number, int(self.buffer[9:12]))
            if not self.transport.is_closing():
                self.sender.ready(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.sender.connections.discard(self)
        if self in self.sender.free:
            self.sender.free.remove(self)
        if self.number >= 0:
            self.sender.ended(self.number, 0)


def _complete(answer: bytes) -> bool:
    """Whether an answer has arrived whole."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    if length := LENGTH.search(head):
        return len(body) >= int(length[1])
    return not CHUNKED.search(head) or body.endswith(b"0\r\n\r\n")
