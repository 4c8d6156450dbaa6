"""The least that a Python server can do: parse, run the model, answer. No batcher, no checks."""

import orjson
import uvicorn
from net import PORT, Net

NET = Net()
HEADERS = [(b"content-type", b"application/json")]


async def app(scope, receive, send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    answer = orjson.dumps({"y": NET.run([orjson.loads(body)])[0]})
    length = (b"content-length", str(len(answer)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, length]})
    await send({"type": "http.response.body", "body": answer})


uvicorn.run(
    app,
    port=PORT,
    http="httptools",
    loop="uvloop",
    lifespan="off",
    access_log=False,
    log_level="warning",
    server_header=False,
    date_header=False,
)
