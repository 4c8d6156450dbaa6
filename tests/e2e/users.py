"""Users of a model, who ask on schedule whatever happens meanwhile."""

import asyncio
import threading
import time
from dataclasses import dataclass, field

USERS, CONNECTIONS = 500, 48


@dataclass(frozen=True)
class Answer:
    """What a user got; `at` is when it was asked, `late_seconds` how long after it was due."""

    at: float
    user: str
    status: int
    release: str | None
    unready: bool
    late_seconds: float
    seconds: float


@dataclass
class Users:
    """Ask for a prediction `rps` times a second, each user in turn, while the block runs and until there are
    `at_least` answers."""

    port: int
    rps: float
    at_least: int = 0
    body: bytes = b"{}"
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> "Users":
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()))
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def failed(self, bad: str = "") -> list:
        """What was not answered well, but by a release that is `bad`."""
        wrong = [each for each in self.answers if each.status != 200 and each.release != bad]
        return [*self.failures, *wrong]

    async def _ask(self) -> None:
        self._next, self._start = 0, time.monotonic()
        await asyncio.gather(*(self._connection() for _ in range(CONNECTIONS)))

    async def _connection(self) -> None:
        reader = writer = None
        while not (self._over.is_set() and self._next >= self.at_least):
            number, self._next = self._next, self._next + 1
            due = self._start + number / self.rps
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            try:
                if writer is None or reader is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                self.answers.append(await self._asked(reader, writer, f"user-{number % USERS}", due))
            except (OSError, EOFError) as error:
                self.failures.append(repr(error))
                reader = writer = None
        if writer is not None:
            writer.close()

    async def _asked(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str, due: float
    ) -> Answer:
        late, at = time.monotonic() - due, time.time()
        head = f"POST /predict HTTP/1.1\r\nhost: x\r\nx-user-id: {user}\r\n"
        form = f"content-type: application/json\r\ncontent-length: {len(self.body)}\r\n\r\n"
        writer.write(f"{head}{form}".encode() + self.body)
        told = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in told[1:] if line)
        await reader.readexactly(int(headers["content-length"]))
        release_id = headers.get("x-release-id")
        took = time.time() - at
        return Answer(at, user, int(told[0].split()[1]), release_id, "x-unready" in headers, late, took)
