"""An HTTP server for tests of what sends requests: it answers with whatever bytes a handler gives."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

Handler = Callable[[bytes, bytes], Awaitable[bytes]]
"""From the head and the body of a request to the bytes of the answer. After an answer that says
"connection: close", and after none (b""), the connection is closed."""


def reply(status: int = 200, body: bytes = b"{}", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} Whatever\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body


async def answer(head: bytes, body: bytes) -> bytes:
    return reply()


class Served:
    """`connections` were opened so far."""

    def __init__(self, handler: Handler) -> None:
        self._handler, self._writers = handler, set()
        self.connections = 0
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self.loop).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def write_now(self, part: bytes) -> None:
        """For the handler of a server with one connection: a part of the answer that goes out by itself."""
        (writer,) = self._writers
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.0005)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
                answered = await self._handler(head, body)
                writer.write(answered)
                if not answered or b"connection: close" in answered:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            """The client left, or the server ends."""
        finally:
            self._writers.discard(writer)
            writer.close()

    def die(self) -> None:
        """For the handler: from now on nobody listens, and nobody gets an answer."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.die)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@contextmanager
def served(handler: Handler = answer) -> Iterator[Served]:
    server = Served(handler)
    try:
        yield server
    finally:
        server.stop()
