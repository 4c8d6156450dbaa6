"""A service as small as can be: says which release it is, drains on SIGTERM, and can be made to fail.

Run as `python service.py PORT RELEASE_ID [dies|unready]`. GET /readyz and /livez, any other path is
answered with the path itself, after `?seconds=` if given, and with the x-request-id that it came with.
"""

import asyncio
import sys
from urllib.parse import parse_qs


class Service:
    def __init__(self, release_id: str, mode: str) -> None:
        self.release_id, self.mode = release_id, mode

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        seconds = parse_qs(scope["query_string"].decode()).get("seconds", ["0"])[0]
        await asyncio.sleep(float(seconds))
        status = 503 if self.mode == "unready" and scope["path"] == "/readyz" else 200
        headers = [(b"x-release-id", self.release_id.encode()), (b"content-type", b"text/plain")]
        headers += [header for header in scope["headers"] if header[0] == b"x-request-id"]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": scope["path"].encode()})


if __name__ == "__main__":
    port, release_id, mode = (*sys.argv[1:], "serves")[:3]
    if mode == "dies":
        sys.exit("the model file is broken")
    import uvicorn

    uvicorn.run(Service(release_id, mode), port=int(port), lifespan="off", log_level="warning")
