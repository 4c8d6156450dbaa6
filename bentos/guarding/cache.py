"""Answers that may be repeated: the same input to the same release has the same outputs.

A process remembers what it answered lately; with Redis configured, workers share it. Nothing is pickled, and
what comes from Redis is checked before it is believed.
"""

import math
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

import numpy as np
import orjson

from bentos.watching.metrics import Metrics
from bentos.work import Job, Tensors

MAX_BYTES = 256 * 2**20
"""Of all answers that a process remembers."""


class Cache:
    """The least recently used of `entries` answers go first; an answer is fresh for `seconds`.

    Each look-up counts as hit, miss or stale. Where there is `redis`, `get` leaves it to `fetch`, which is to
    follow, to count a miss.
    """

    def __init__(
        self,
        release_id: str,
        seconds: float,
        entries: int,
        metrics: Metrics,
        redis_url: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._entries, self._metrics, self._clock = seconds, entries, metrics, clock
        self._release = release_id.encode()
        self._kept: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0
        self.redis = None
        if redis_url:
            from bentos.guarding.redis_store import RedisStore

            self.redis = RedisStore(redis_url, f"seatrial:{release_id}:", seconds, metrics, clock)

    def key(self, job: Job) -> bytes:
        """A digest of the release and of the job's input as it came: JSON rows, or tensors with their names,
        dtypes and shapes."""
        digest = blake2b(self._release, digest_size=16, person=b"seatrial")
        if job.rows is not None:
            digest.update(orjson.dumps(job.rows, option=orjson.OPT_SERIALIZE_NUMPY))
        else:
            for name, tensor in sorted((job.feeds or {}).items()):
                digest.update(orjson.dumps((name, tensor.dtype.str, tensor.shape)))
                digest.update(np.ascontiguousarray(tensor).reshape(-1).data)
        return digest.digest()

    def get(self, key: bytes) -> Tensors | None:
        """A fresh answer of this process. The arrays are read-only."""
        expires, packed = self._kept.get(key, (-math.inf, b""))
        if self._clock() < expires:
            self._kept.move_to_end(key)
            self._metrics.cache("hit")
            return unpack(packed)
        if self.redis is None:
            self._metrics.cache("miss")
        return None

    def stale(self, key: bytes) -> Tensors | None:
        """An answer of this process, however old; for when there is no other."""
        if key not in self._kept:
            return None
        self._metrics.cache("stale")
        return unpack(self._kept[key][1])

    def put(self, key: bytes, outputs: Tensors) -> None:
        """Remember an answer in this process."""
        self._keep(key, pack(outputs))

    async def fetch(self, key: bytes) -> Tensors | None:
        """A fresh answer of another process, by Redis; at most 50 ms. Never raises."""
        packed = await self.redis.get(key) if self.redis else None
        try:
            outputs = unpack(packed) if packed is not None else None
        except ValueError:
            self._metrics.cache("error")
            packed = outputs = None
        self._metrics.cache("miss" if outputs is None else "hit")
        if packed is not None:
            self._keep(key, packed)
        return outputs

    async def share(self, key: bytes, outputs: Tensors) -> None:
        """Let other processes know an answer, by Redis; at most 50 ms. Never raises."""
        if self.redis:
            await self.redis.put(key, pack(outputs))

    async def close(self) -> None:
        if self.redis:
            await self.redis.close()

    def _keep(self, key: bytes, packed: bytes) -> None:
        self._bytes += len(packed) - len(self._kept.pop(key, (0, b""))[1])
        self._kept[key] = self._clock() + self._seconds, packed
        while len(self._kept) > self._entries or self._bytes > MAX_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1][1])


def pack(outputs: Tensors) -> bytes:
    """Arrays as bytes: a digest of the rest, the length of the header, the header [[name, dtype, shape], …]
    in JSON, and the numbers as they lie in memory."""
    header = orjson.dumps([(name, array.dtype.str, array.shape) for name, array in outputs.items()])
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in outputs.values())
    rest = struct.pack("<I", len(header)) + header + body
    return _digest(rest) + rest


def unpack(packed: bytes) -> dict[str, np.ndarray]:
    """The arrays, read-only and without a copy. Raises ValueError for what `pack` has not written."""
    if not isinstance(packed, bytes) or _digest(memoryview(packed)[8:]) != packed[:8]:
        raise ValueError("not an answer, or a damaged one")
    (length,) = struct.unpack_from("<I", packed, 8)
    at = 12 + length
    outputs = {}
    for name, dtype, shape in orjson.loads(packed[12:at]):
        count = math.prod(shape)
        outputs[name] = np.frombuffer(packed, dtype, count, at).reshape(shape)
        at += outputs[name].nbytes
    return outputs


def _digest(content) -> bytes:
    return blake2b(content, digest_size=8, person=b"seatrial").digest()
