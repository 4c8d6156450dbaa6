"""How much slower sessions are beside each other: they share memory, caches, power, or a whole GPU."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bentos.work import Tensors
from pipelines.core.evaluate import row_count, take
from pipelines.core.speed import Clock

ROUNDS, SECONDS = 9, 0.03
"""A session alone and all at once take turns, each about so long."""
LONG_SECONDS, MOST_ROWS = 2e-3, 2**16
"""In shorter runs the threads of one process wait for Python's lock, which workers do not share."""


def crowding(engines: Sequence[Any], feeds: Tensors, clock: Clock) -> float:
    """How many times as long a run of `feeds` takes on each engine when all run at once, at least 1. They run
    in threads of this process, since ONNX Runtime computes without Python's lock. The fastest round of each
    counts: what other processes take from all cores at once would pass for crowding."""
    if len(engines) == 1:
        return 1.0
    repeats = 1

    def run(engine: Any) -> None:
        for _ in range(repeats):
            engine.run(feeds)

    def seconds(engines: Sequence[Any]) -> float:
        started = clock()
        list(threads.map(run, engines))
        return max(1e-9, clock() - started)

    with ThreadPoolExecutor(len(engines)) as threads:
        seconds(engines)
        repeats = max(1, round(SECONDS / seconds(engines[:1])))
        rounds = [(seconds(engines), seconds(engines[:1])) for _ in range(ROUNDS)]
    together, alone = (min(taken) for taken in zip(*rounds, strict=True))
    return max(1.0, together / alone)


def lengthened(engine: Any, feeds: Tensors, clock: Clock) -> Tensors:
    """The rows repeated, until a run of them takes long enough."""
    while row_count(feeds) < MOST_ROWS:
        started = clock()
        engine.run(feeds)
        if clock() - started >= LONG_SECONDS:
            break
        feeds = take(feeds, np.arange(2 * row_count(feeds)) % row_count(feeds))
    return feeds
