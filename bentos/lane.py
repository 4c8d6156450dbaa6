"""The short way into the service: an HTTP protocol for uvicorn that answers what `front` knows itself.

BentoML's worker runs its application under uvicorn. On the way through ASGI a request costs a scope, a task,
an event, seven middlewares and a response: hundreds of µs around a model that needs five. This protocol
is uvicorn's own, with one difference: a request that `front` knows is answered from the parser's callbacks.
All others go to BentoML as ever. It also limits how large and how slow a request may be, whoever answers it.
"""

import math
from typing import Any, ClassVar

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bentos.errors import Refusal, TooLarge, TooSlow
from bentos.front import Front, Handler
from bentos.messages import Answer, request_id
from bentos.work import Job

READ_SECONDS = 30.0
"""In which a request must have arrived: from its first byte, or the connection, to its last."""
KEEP_ALIVE_SECONDS = 75.0
"""An idle connection is kept longer than the 60 s after which most routers drop theirs."""
MAX_HEAD_BYTES = 32_768
"""Of the request line and all headers."""


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
            self.lane.send(answer, self.keep_alive)


class _NobodyWaits:
    def set(self) -> None:
        """uvicorn wakes its cycle by this; an exchange is called back instead."""


NOBODY_WAITS = _NobodyWaits()


class Lane(HttpToolsProtocol):
    """uvicorn's protocol with the short way. `front` is set once, before the first connection.

    close_at   when the connection is closed if nothing happens until then, on the loop's clock
    """

    front: ClassVar[Front]
    connected: ClassVar[set["Lane"]] = set()
    _common: ClassVar[tuple[list, bytes]] = ([], b"")
    cycle: Any
    parser: Any

    @classmethod
    def install(cls) -> None:
        """Let uvicorn speak this protocol where nobody asks for another."""
        HTTP_PROTOCOLS["auto"] = f"{cls.__module__}:{cls.__name__}"

    @classmethod
    def sweep(cls) -> None:
        """Close what is too slow or has been idle for too long. One timer for all connections."""
        for lane in [lane for lane in cls.connected if lane.close_at < lane.loop.time()]:
            if lane.receiving:
                lane.refuse(TooSlow(f"the request did not arrive within {READ_SECONDS:g} s"))
            else:
                lane.transport.close()

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self.connected.add(self)
        self.close_at, self.receiving, self.ended = self.loop.time() + READ_SECONDS, False, False

    def connection_lost(self, exc: Exception | None) -> None:
        self.connected.discard(self)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self.close_at, self.receiving = self.loop.time() + READ_SECONDS, True
        self._head_bytes = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.ended:
            return
        head = dict(self.headers)
        if int(head.get(b"content-length", b"0")) > self.front.max_body_bytes:
            return self.refuse(self._too_large())
        path = self.url.partition(b"?")[0]
        handler = self.front.handler(self.parser.get_method(), path, head.get(b"content-type", b""))
        free = self.cycle is None or self.cycle.response_complete
        if handler is None or not free or self.expect_100_continue or self.parser.should_upgrade():
            self._leave_to_bentoml()
        else:
            keep_alive = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
            self.cycle = Exchange(self, handler, head, keep_alive)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self.ended:
            return
        if self._body_bytes > self.front.max_body_bytes:
            return self.refuse(self._too_large())
        if type(self.cycle) is Exchange:
            self.cycle.chunks.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.close_at, self.receiving = math.inf, False
        if self.ended:
            return
        exchange = self.cycle
        if type(exchange) is not Exchange:
            return super().on_message_complete()
        body = exchange.chunks[0] if len(exchange.chunks) == 1 else b"".join(exchange.chunks)
        exchange.chunks.clear()
        exchange.job = self.front.call(exchange.handler, exchange.head, body, exchange.reply)

    def on_response_complete(self) -> None:
        """As uvicorn's, but that the time for the next request is kept by `sweep`."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif not self.receiving:
            self.close_at = self.loop.time() + KEEP_ALIVE_SECONDS

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
        """Answer before the request is complete, and close: the rest would be read for nothing."""
        self.ended = True
        head, handler = dict(self.headers), None
        if type(self.cycle) is Exchange and not self.cycle.response_complete:
            handler = self.cycle.handler
        if self.cycle is not None:
            self.cycle.response_complete = True
        answer = self.front.refused(refusal, request_id(head), self.front.way(handler, head))
        self.send(answer, keep_alive=False)

    def _too_large(self) -> Refusal:
        return TooLarge("the body", None, self.front.max_body_bytes)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES and not self.ended:
            self.refuse(TooLarge("the head of the request", None, MAX_HEAD_BYTES))

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
