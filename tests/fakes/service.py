"""A service as small as can be: says which release it is, drains on SIGTERM, and can be made to fail.

Run as `python service.py PORT RELEASE_ID [MODE]`. GET /readyz and /livez; /seen answers with the x-request-id
of all that it was asked; any other path is answered with the path itself, the number of bytes that came in
x-received, and those headers in ECHOED that it came with. `?seconds=` before it answers, `?status=` instead
of 200, with a retry-after. Modes:

dies      it does not start
unready   it is never ready
warms     nor in its first half second, and says x-unready in what it answers meanwhile
slow      it answers after 30 s
fragile   it is gone at the first request
poisoned  it is gone at the twentieth
fails     it answers 500
"""

import asyncio
import os
import sys
import time
from urllib.parse import parse_qs

SLOW_SECONDS, WARM_SECONDS = 30, 0.5
ECHOED = (b"x-request-id", b"x-client-id", b"x-api-key", b"authorization")


class Service:
    def __init__(self, release_id: str, mode: str) -> None:
        self.release_id, self.mode = release_id, mode
        self.seen: list[str] = []
        self.warm_at = time.monotonic() + (WARM_SECONDS if mode == "warms" else 0)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        asked = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        body = scope["path"].encode()
        received = await _size(receive)
        if body == b"/seen":
            body = "\n".join(self.seen).encode()
        elif body not in (b"/readyz", b"/livez"):
            self.seen.append(dict(scope["headers"]).get(b"x-request-id", b"").decode())
            if len(self.seen) == {"fragile": 1, "poisoned": 20}.get(self.mode):
                os._exit(1)
            await asyncio.sleep(SLOW_SECONDS if self.mode == "slow" else float(asked.get("seconds", 0)))
        cold = time.monotonic() < self.warm_at
        unready = (self.mode == "unready" or cold) and body == b"/readyz"
        fails = self.mode == "fails" and body not in (b"/readyz", b"/livez")
        status = 503 if unready else int(asked.get("status", 500 if fails else 200))
        headers = [(b"x-release-id", self.release_id.encode()), (b"content-type", b"text/plain")]
        headers += [(b"content-length", str(len(body)).encode())]
        headers += [(b"x-received", str(received).encode())] + [(b"retry-after", b"7")] * (status != 200)
        headers += [(b"x-unready", b"1")] * cold
        headers += [header for header in scope["headers"] if header[0] in ECHOED]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Whole:
    """A connection that sends what was written in one turn of the loop in one piece. uvicorn writes the head
    of an answer and its body one after the other; of a process that is killed in between no proxy can make up
    for the half that is gone. The service that this one stands for writes each answer whole."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._parts = transport, []

    def write(self, part: bytes) -> None:
        if not self._parts:
            asyncio.get_running_loop().call_soon(self._flush)
        self._parts.append(part)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


async def _size(receive) -> int:
    size, message = 0, {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        size += len(message.get("body", b""))
    return size


if __name__ == "__main__":
    port, release_id, mode = (*sys.argv[1:], "serves")[:3]
    if mode == "dies":
        sys.exit("the model file is broken")
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Protocol(HttpToolsProtocol):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self.transport = Whole(transport)

    uvicorn.run(
        Service(release_id, mode), port=int(port), http=Protocol, lifespan="off", log_level="warning",
        access_log=False,
    )  # fmt: skip
