"""The answers that workers share in Redis. A Redis that is gone, hangs or answers garbage costs misses, and
nothing else. Imported only where Redis is configured.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from bentos.watching.logs import Limited
from bentos.watching.metrics import Metrics

TIMEOUT_SECONDS = 0.05
PAUSE_SECONDS = 5.0
"""How long Redis is left alone after a failure; then one look-up tries."""
MAX_CONNECTIONS = 32

logger = logging.getLogger(__name__)


class RedisStore:
    """The keys that begin with `prefix`, each kept for `seconds`. Connects when first asked."""

    def __init__(
        self, url: str, prefix: str, seconds: float, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        never = Retry(NoBackoff(), 0)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=never,
        )
        self._client: Any = Redis.from_pool(pool)
        self._prefix = prefix
        self._milliseconds = max(1, int(seconds * 1000))
        self._metrics, self._clock = metrics, clock
        self._log = Limited(logger, seconds=60)
        self._is_down = False
        self._ask_from = 0.0

    async def get(self, key: bytes) -> bytes | None:
        return await self._ask(lambda: self._client.get(self._prefix + key.hex()))

    async def put(self, key: bytes, packed: bytes) -> None:
        await self._ask(lambda: self._client.set(self._prefix + key.hex(), packed, px=self._milliseconds))

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, command: Callable[[], Coroutine]) -> Any:
        """The reply, or None: there was none in time, or lately there was none."""
        if self._is_down:
            if self._clock() < self._ask_from:
                return None
            self._ask_from = self._clock() + PAUSE_SECONDS  # this one tries, the others do without
        try:
            reply = await _in_time(command())
        except Exception as error:  # noqa: BLE001  garbage on the wire raises anything; all of it is a miss
            self._is_down, self._ask_from = True, self._clock() + PAUSE_SECONDS
            self._metrics.cache("error")
            self._log.log(logging.WARNING, "Redis does not answer", reason=type(error).__name__)
            return None
        self._is_down = False
        return reply


async def _in_time(command: Coroutine) -> Any:
    """The command's result. Raises TimeoutError on the dot: redis-py may take seconds to heed a cancellation,
    so it is not waited for."""
    task = asyncio.create_task(command)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    await asyncio.wait({task}, timeout=TIMEOUT_SECONDS)
    if not task.done():
        task.cancel()
        raise TimeoutError
    return task.result()
