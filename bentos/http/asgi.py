"""The same front for any ASGI server and for tests in process: slower than the lane, with the same answers.

What `front` does not know goes on to BentoML's own application, and its answers get the release's headers.
"""

import asyncio
from typing import Any

from bentos.errors import Left, Refusal, TooLarge
from bentos.http.front import Front
from bentos.http.messages import Answer, Head, request_id


class Middleware:
    """ASGI middleware. `front` is made by the service when it has loaded its release."""

    front: Front

    def __init__(self, app) -> None:
        self._app = app

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        head: Head = dict(scope["headers"])
        path, content_type = scope["path"].encode(), head.get(b"content-type", b"")
        handler = self.front.handler(scope["method"].encode(), path, content_type)
        if handler is None:
            return await self._app(scope, receive, self._stamped(send, request_id(head)))
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer] = loop.create_future()
        try:
            body = await self._body(receive)
        except Refusal as refusal:
            way = None if isinstance(refusal, Left) else self.front.way(handler, head)
            return await self._send(self.front.refused(refusal, request_id(head), way), send)
        job = self.front.call(handler, head, body, lambda answer: _set(answered, answer))
        gone = loop.create_task(_disconnected(receive))
        try:
            await asyncio.wait((answered, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                if job is not None:
                    self.front.release.cancel(job)
                # Nobody hears that the client left, but BentoML waits for an answer before it lets go.
                _set(answered, self.front.refused(Left(), request_id(head), None))
            await self._send(answered.result(), send)
        finally:
            gone.cancel()

    async def _body(self, receive) -> bytes:
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Left
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self.front.max_body_bytes:
                raise TooLarge("the body", None, self.front.max_body_bytes)
            more = message.get("more_body", False)
        return b"".join(chunks)

    async def _send(self, answer: Answer, send) -> None:
        headers = [
            (b"content-type", answer.content_type),
            (b"content-length", b"%d" % sum(map(len, answer.chunks))),
            (b"x-request-id", answer.request_id),
            *self.front.stamp,
            *answer.headers,
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"".join(answer.chunks)})

    def _stamped(self, send, name: bytes):
        added = [*self.front.stamp, (b"x-request-id", name)]

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        return send_with_headers


def _set(future: asyncio.Future, answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)


async def _disconnected(receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
