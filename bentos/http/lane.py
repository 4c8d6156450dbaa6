"""The short way into the service: an HTTP protocol for uvicorn that answers what `front` knows itself.

BentoML's worker runs its application under uvicorn. On the way through ASGI a request costs a scope, a task,
an event, seven middlewares and a response: hundreds of µs around a model that needs five. This protocol
is uvicorn's own, with one difference: a request that `front` knows is answered from the parser's callbacks.
All others go to BentoML as ever. It also limits how large and how slow a request may be, whoever answers it.
"""

import asyncio
import math
from typing import Any, ClassVar

import httptools
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bentos.errors import Invalid, Refusal, TooLarge, TooSlow, refusal_of
from bentos.http.front import Front, Handler
from bentos.http.messages import Answer, request_id
from bentos.work import Job

KEEP_ALIVE_SECONDS = 75.0
"""An idle connection is kept longer than the 60 s after which most routers drop theirs."""
SWEEP_SECONDS = 1.0
MAX_HEAD_BYTES = 32_768
"""Of the request line and all headers."""
MOST_FRAMING = 2
"""How many times the largest body may come over the wire: its chunks say how long they are."""


class Exchange:
    """A request that the lane answers, in the place of uvicorn's cycle: while it lasts, uvicorn queues what
    is pipelined behind it, and counts on it when it shuts down."""

    __slots__ = (
        "chunks",
        "handler",
        "head",
        "job",
        "keep_alive",
        "lane",
        "message_event",
        "response_complete",
    )

    def __init__(self, lane: "Lane", handler: Handler, head: dict[bytes, bytes], keep_alive: bool) -> None:
        self.lane, self.handler, self.head, self.keep_alive = lane, handler, head, keep_alive
        self.chunks: list[bytes] = []
        self.job: Job | None = None
        self.response_complete = False
        self.message_event = NOBODY_WAITS

    @property
    def disconnected(self) -> bool:
        return self.lane.transport.is_closing()

    @disconnected.setter
    def disconnected(self, _: bool) -> None:
        """uvicorn says that the client left."""
        self.response_complete = True
        if self.job is not None:
            self.lane.front.release.cancel(self.job)

    def reply(self, answer: Answer) -> None:
        if not self.response_complete:
            self.response_complete = True
            self.job = None  # job and exchange know each other: garbage that only the collector would find
            self.lane.send(answer, self.keep_alive)


class _NobodyWaits:
    def set(self) -> None:
        """uvicorn wakes its cycle by this; an exchange is called back instead."""


NOBODY_WAITS = _NobodyWaits()


class Lane(HttpToolsProtocol):
    """uvicorn's protocol with the short way. `front` is set once, before the first connection.

    read_seconds   in which a request must have arrived: from its first byte, or the connection, to its last
    close_at       when the connection is closed if nothing happens until then, on the loop's clock
    receiving      whether a request has begun and is not complete; `in_head`: its headers are not
    ended          the last answer is known, what still comes is not looked at
    last_words     that answer, while those to earlier requests are on their way
    running        the cycle that is being answered; `cycle` is the last to come, perhaps queued behind it
    """

    front: ClassVar[Front]
    read_seconds: ClassVar[float] = 30.0
    connected: ClassVar[set["Lane"]] = set()
    _common: ClassVar[tuple[list, bytes]] = ([], b"")
    cycle: Any
    parser: Any

    @classmethod
    def install(cls) -> None:
        """Let uvicorn speak this protocol where nobody asks for another."""
        HTTP_PROTOCOLS["auto"] = f"{cls.__module__}:{cls.__name__}"

    @classmethod
    def keep_sweeping(cls) -> None:
        """`sweep` now and from now on, on the running loop."""
        cls.sweep()
        asyncio.get_running_loop().call_later(SWEEP_SECONDS, cls.keep_sweeping)

    @classmethod
    def sweep(cls) -> None:
        """Close what is too slow or has been idle for too long. One timer for all connections."""
        for lane in [lane for lane in cls.connected if lane.close_at < lane.loop.time()]:
            if lane.transport.is_closing():  # and its client does not read
                lane.transport.abort()
            elif lane.receiving:
                lane.refuse(TooSlow(f"the request did not arrive within {cls.read_seconds:g} s"))
            else:
                lane.transport.close()

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self.connected.add(self)
        self.headers = []
        self.close_at = self.loop.time() + self.read_seconds
        self.receiving = self.in_head = self.ended = False
        self.last_words: Answer | None = None
        self.running: Any = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.connected.discard(self)
        self._give_up(self.running)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.ended:
            return
        if self.receiving:
            self._raw_bytes += len(data)
        try:
            while data:
                data = self._parsed(data)
            if self.receiving and self._raw_bytes > self._most_raw_bytes():
                self.refuse(self._too_long() if self.in_head else self._too_large())
        except httptools.HttpParserError as error:
            self.refuse(_reason(error))

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self.close_at = self.loop.time() + self.read_seconds
        self.receiving = self.in_head = True
        self._raw_bytes = self._head_bytes = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        head, method, path = dict(self.headers), self.parser.get_method(), self.url.partition(b"?")[0]
        if int(head.get(b"content-length", b"0")) > self.front.max_body_bytes:
            raise self._too_large()
        # uvicorn knows how to answer HEAD, and what a path in percent signs means.
        is_plain = method != b"HEAD" and b"%" not in path and not self.expect_100_continue
        handler = self.front.handler(method, path, head.get(b"content-type", b"")) if is_plain else None
        if handler is None or not (self.cycle is None or self.cycle.response_complete):
            self._leave_to_bentoml()
        else:  # who ends soon lets clients go elsewhere
            keep_alive = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
            self.cycle = self.running = Exchange(
                self, handler, head, keep_alive and self.front.release.is_ready
            )
        self.in_head = False

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self.front.max_body_bytes:
            raise self._too_large()
        if type(self.cycle) is Exchange:
            self.cycle.chunks.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self.close_at, self.receiving = math.inf, False
        exchange = self.cycle
        if type(exchange) is not Exchange:
            return super().on_message_complete()
        body = exchange.chunks[0] if len(exchange.chunks) == 1 else b"".join(exchange.chunks)
        exchange.chunks.clear()
        job = self.front.call(exchange.handler, exchange.head, body, exchange.reply)
        if not exchange.response_complete:
            exchange.job = job

    def on_response_complete(self) -> None:
        """As uvicorn's, but that the time for the next request is kept by `sweep`."""
        self.server_state.total_requests += 1
        if not self.receiving:
            waits = self.pipeline and not self.transport.is_closing()
            self.close_at = math.inf if waits else self.loop.time() + KEEP_ALIVE_SECONDS
        if self.transport.is_closing():
            return
        if not self.flow.write_paused:
            self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self.last_words is not None:
            self.send(self.last_words, keep_alive=False)

    def pause_writing(self) -> None:
        """Who does not read answers is asked nothing more."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.flow.resume_reading()

    def send(self, answer: Answer, keep_alive: bool) -> None:
        """Write an answer, and go on with what waits behind it."""
        if self.transport.is_closing():
            return
        extra = b"".join([b"%b: %b\r\n" % pair for pair in answer.headers])
        head = b"%b%b%bcontent-type: %b\r\nx-request-id: %b\r\ncontent-length: %d\r\n%b\r\n" % (
            STATUS_LINE[answer.status],
            self._common_headers(),
            extra,
            answer.content_type,
            answer.request_id,
            sum(map(len, answer.chunks)),
            b"" if keep_alive else b"connection: close\r\n",
        )
        self.transport.write(b"".join((head, *answer.chunks)))
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()

    def refuse(self, refusal: Refusal) -> None:
        """Answer before the request is complete, after those before it, and close: the rest would be read for
        nothing."""
        own = self.cycle if self.receiving and not self.in_head else None
        if own is not None and own.response_complete:  # its answer did not need all of it
            return self.transport.close()
        waits = self.running not in (None, own) and not self.running.response_complete
        self._give_up(own)
        self.ended, self.receiving, head = True, False, dict(self.headers)
        handler = own.handler if type(own) is Exchange else None
        answer = self.front.refused(refusal, request_id(head), self.front.way(handler, head) or "http")
        if waits:
            self.close_at, self.last_words = math.inf, answer
        else:
            self.send(answer, keep_alive=False)

    def _give_up(self, cycle: Any) -> None:
        """Nobody needs its answer any more."""
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = cycle.response_complete = True
            cycle.message_event.set()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if not cycle.response_complete:
            self.running = cycle
            super()._start_asgi_task(cycle, app)
        elif self.last_words is not None:
            self.send(self.last_words, keep_alive=False)

    def _parsed(self, data: bytes) -> bytes:
        """Let the parser have the data. An upgrade may be ignored, and is, as by clients that would rather
        speak HTTP/2: returns the same request without it, to be parsed again, for the parser takes its body
        for what comes after the upgrade."""
        try:
            self.parser.feed_data(data)
            return b""
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.refuse(Invalid([], "nothing can be connected to here"))
            return b""
        headers = b"".join([b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"])
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"%b %b HTTP/%b\r\n%b\r\n%b" % (method, self.url, version, headers, rest)

    def _most_raw_bytes(self) -> int:
        return MAX_HEAD_BYTES + (0 if self.in_head else MOST_FRAMING * self.front.max_body_bytes)

    def _too_large(self) -> Refusal:
        return TooLarge("the body", None, self.front.max_body_bytes)

    def _too_long(self) -> Refusal:
        return TooLarge("the head of the request", None, MAX_HEAD_BYTES)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise self._too_long()

    def _leave_to_bentoml(self) -> None:
        """Make uvicorn's scope, which is not needed for what is answered here, and go uvicorn's way."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()

    def _common_headers(self) -> bytes:
        """The date, which uvicorn renews each second, and the release."""
        dated = self.server_state.default_headers
        if self._common[0] is not dated:
            pairs = (*dated, *self.front.stamp)
            Lane._common = (dated, b"".join([b"%b: %b\r\n" % pair for pair in pairs]))
        return self._common[1]


def _reason(error: httptools.HttpParserError) -> Refusal:
    """What stopped the parser: a refusal of ours, a mistake of ours, or that this is no HTTP."""
    raised = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
    if raised is None or isinstance(raised, httptools.HttpParserError):
        return Invalid([], "is not valid HTTP/1.1")
    return refusal_of(raised)
