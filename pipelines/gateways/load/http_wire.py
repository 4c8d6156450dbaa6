"""Requests over kept-alive connections of HTTP/1.1, one at a time on each: bytes that were made beforehand,
and of an answer only its status and its end are read."""

import asyncio
import errno
import re
from collections import deque
from time import thread_time
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from pipelines.core.errors import LoadTestInvalid, ServiceFailed
from pipelines.gateways.load.wire import NO_ANSWER, Wire
from pipelines.gateways.payloads import Headers, Payloads

IDLE_S = 1.5
"""An idle connection is closed before a server does so: a request that crosses with that would be lost."""
NOBODY = -1
MAX_SAID_BYTES = 2000
MAX_HEAD_BYTES = 65_536
FRAMED = re.compile(rb"\r\n(content-length|transfer-encoding) *:", re.IGNORECASE)
OURS = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL)
"""A connection that fails so is no fault of the target."""


class HttpWire(Wire):
    """At most `max_connections`; beyond them a request waits for one."""

    def __init__(self, url: str, payloads: Payloads, max_connections: int, timeout_s: float) -> None:
        parts = urlsplit(url)
        self._url, self._host, self._port = url, parts.hostname or "", parts.port or 0
        self._most, self._timeout_s = max_connections, timeout_s
        path = parts.path.rstrip("/") + payloads.path
        pairs = zip(payloads.headers, payloads.bodies, strict=True)
        self._heads = [_head(path, parts.netloc, headers, len(body)) for headers, body in pairs]
        self._bodies = payloads.bodies
        self._connections: set[_Connection] = set()
        self._free: deque[_Connection] = deque()
        self._waiting: deque[int] = deque()
        self._opening: set[asyncio.Task] = set()

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            transport = await self._connect()
        except OSError as error:
            raise ServiceFailed(self._url, f"can't be reached ({error or 'no answer in time'})") from error
        self._host, self._port = transport.get_extra_info("peername")[:2]  # what `localhost` turned out to be

    def send(self, turn: int) -> None:
        now_s, free = self._loop.time(), self._free
        while free and free[0].idle_since_s < now_s - IDLE_S:
            free.popleft().transport.close()
        if free:
            return self._put(turn, free.pop())
        self._waiting.append(turn)
        self._open_enough()

    def drop(self, turn: int) -> None:
        if self._waiting and self._waiting[0] == turn:  # the oldest is dropped first
            self._waiting.popleft()
        for connection in self._connections:
            if connection.turn == turn:
                connection.turn = NOBODY
                connection.transport.abort()

    def cpu_seconds(self) -> float:
        return thread_time()

    async def close(self) -> None:
        self._waiting.clear()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in self._connections:
            connection.turn = NOBODY
            connection.transport.abort()

    def ready(self, connection: "_Connection") -> None:
        """It can take a request."""
        self._connections.add(connection)
        if self._waiting:
            return self._put(self._waiting.popleft(), connection)
        connection.idle_since_s = self._loop.time()
        self._free.append(connection)

    def lost(self, connection: "_Connection") -> None:
        self._connections.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        self._open_enough()

    def _put(self, turn: int, connection: "_Connection") -> None:
        number = turn % len(self._bodies)
        self.listener.started(turn)
        connection.send(turn, self._heads[number] + self._bodies[number])

    def _open_enough(self) -> None:
        """An attempt for each request that waits, as far as connections are allowed."""
        while (
            len(self._opening) < len(self._waiting)
            and len(self._opening) + len(self._connections) < self._most
        ):
            task = self._loop.create_task(self._open_one())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task) -> None:
        self._opening.discard(task)
        self._open_enough()

    async def _open_one(self) -> None:
        try:
            await self._connect()
        except OSError as error:
            if error.errno in OURS:
                reason = f"the generator can open no more connections ({error.strerror})"
                return self.listener.broken(LoadTestInvalid(reason))
            if self._waiting:
                self.listener.ended(self._waiting.popleft(), NO_ANSWER)
            self.listener.refused()

    async def _connect(self) -> asyncio.Transport:
        async with asyncio.timeout(self._timeout_s):
            made = await self._loop.create_connection(lambda: _Connection(self), self._host, self._port)
        return made[0]


class _Connection(asyncio.Protocol):
    """`turn` is the request that it waits for the answer to."""

    def __init__(self, wire: HttpWire) -> None:
        self._wire, self._parser = wire, HttpResponseParser(self)
        self.turn, self.idle_since_s = NOBODY, 0.0
        self._status, self._keep, self._begun, self._said = NO_ANSWER, True, b"", b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._wire.ready(self)

    def send(self, turn: int, request: bytes) -> None:
        self.turn, self._status, self._begun, self._said = turn, NO_ANSWER, b"", b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            return self.transport.abort()
        if not self._status:
            self._begun = (self._begun + data)[:MAX_HEAD_BYTES]
        elif self.turn == NOBODY:  # an answer to nothing, as of a server that closes idle connections
            self.transport.abort()
        else:
            self._answered()

    def _answered(self) -> None:
        turn, self.turn, status = self.turn, NOBODY, self._status
        self._wire.said = self._wire.said or self._said.decode(errors="replace")
        if self._keep:
            self._wire.ready(self)
        else:
            self.transport.close()
        self._wire.listener.ended(turn, status)

    def connection_lost(self, exc: Exception | None) -> None:
        turn, self.turn = self.turn, NOBODY
        self._wire.lost(self)
        if turn != NOBODY:
            self._wire.listener.ended(turn, NO_ANSWER if exc else self._status_at_end())

    def _status_at_end(self) -> int:
        """An answer that says nothing of its length is whole when the connection is closed."""
        head, whole, _ = self._begun.partition(b"\r\n\r\n")
        return self._parser.get_status_code() if whole and not FRAMED.search(head) else NO_ANSWER

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() >= 400 and not self._wire.said:
            self._said = (self._said + body)[:MAX_SAID_BYTES]

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # or it was only a word before the answer
            self._status, self._keep = status, self._parser.should_keep_alive()


def _head(path: str, host: str, headers: Headers, length: int) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", *map(": ".join, headers), f"content-length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()
