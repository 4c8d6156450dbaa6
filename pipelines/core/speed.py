"""How fast rungs are against fp32: interleaved in one process, so that a noisy machine hits all alike."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.core.evaluate import Runs, Tensors, row_count, take

ROUNDS = 11
ROUND_SECONDS = 0.02
"""Each rung runs about this long in each round, at each batch size."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Speed:
    """One rung at one batch size: µs a run, and times as fast as fp32 (median and range over rounds).
    `length` is that of the batch along dimensions of any length, 0 where there are none."""

    latency_us: float
    speedup: float
    low: float
    high: float
    length: int = 0


Speeds = Mapping[str, Mapping[int, Speed]]
"""Of each rung, at each batch size."""


def save_speeds(speeds: Speeds, path: Path) -> None:
    plain = {rung: {rows: asdict(speed) for rows, speed in sizes.items()} for rung, sizes in speeds.items()}
    path.write_text(json.dumps(plain, indent=2) + "\n")


def load_speeds(path: Path) -> Speeds:
    """What `save_speeds` wrote."""
    found = json.loads(path.read_text())
    return {
        rung: {int(rows): Speed(**speed) for rows, speed in sizes.items()} for rung, sizes in found.items()
    }


def compare_speed(
    engines: Mapping[str, Runs], feeds: Tensors, batch_sizes: list[int], clock: Clock, length: int = 0
) -> dict[str, dict[int, Speed]]:
    """Time every rung at every batch size, turn about: {rung: {batch size: Speed}}.

    `engines` must hold "fp32". `clock` gives seconds, e.g. time.perf_counter. `length` is that of the feeds.
    """
    table: dict[str, dict[int, Speed]] = {rung: {} for rung in engines}
    for rows in batch_sizes:
        batch = take(feeds, np.arange(rows) % row_count(feeds))
        for rung, speed in _at_one_size(engines, batch, clock).items():
            table[rung][rows] = replace(speed, length=length)
    return table


def overall(speeds: Mapping[int, Speed]) -> float:
    """One figure over all batch sizes: the geometric mean of the median speedups."""
    return math.exp(sum(math.log(speed.speedup) for speed in speeds.values()) / len(speeds))


def _at_one_size(engines: Mapping[str, Runs], batch: Tensors, clock: Clock) -> dict[str, Speed]:
    repeats = {rung: _repeats(engine, batch, clock) for rung, engine in engines.items()}
    seconds = {rung: np.empty(ROUNDS) for rung in engines}
    for round_ in range(ROUNDS):
        turn = list(engines.items())
        for rung, engine in turn if round_ % 2 else reversed(turn):  # so that a drift hits all alike
            seconds[rung][round_] = _seconds_a_run(engine, batch, repeats[rung], clock)
    ratios = {rung: seconds["fp32"] / taken for rung, taken in seconds.items()}
    return {
        rung: Speed(
            float(np.median(taken) * 1e6),
            float(np.median(ratios[rung])),
            float(ratios[rung].min()),
            float(ratios[rung].max()),
        )
        for rung, taken in seconds.items()
    }


def _repeats(engine: Runs, batch: Tensors, clock: Clock) -> int:
    _seconds_a_run(engine, batch, 3, clock)
    return max(1, round(ROUND_SECONDS / max(1e-9, _seconds_a_run(engine, batch, 5, clock))))


def _seconds_a_run(engine: Runs, batch: Tensors, repeats: int, clock: Clock) -> float:
    feeds = dict(batch)
    started = clock()
    for _ in range(repeats):
        engine.run(feeds)
    return (clock() - started) / repeats
