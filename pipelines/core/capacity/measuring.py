"""What a model costs on this machine, measured as it will run: the table that the plan is made from.

Every cell of the table has a warm session and a batch of real rows, from JSON to answers. All cells are run
turn about, so that a noisy moment hits many a little and none for good, and the median over rounds stands.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bentos.contract import Contract
from bentos.engines.device import open_engine
from bentos.manifest import Cost, Plan, sha256
from bentos.work import Tensors
from pipelines.core.capacity.batches import Batches
from pipelines.core.capacity.crowding import crowding, lengthened
from pipelines.core.capacity.profile import Profile
from pipelines.core.speed import Clock
from pipelines.core.texts import Tokenizes

MOST_ROWS = 256
"""Larger batches save next to nothing: what is fixed of a run is by then a small share of it."""
MOST_STREAMS = 4
"""Sessions that share a GPU, at most."""
ROUNDS, ROUND_SECONDS = 7, 0.01
"""Each cell runs about so long in each round, and at least once."""
TABLE_SECONDS = 30.0
"""Fewer rounds where all of them would take longer."""
REQUESTS, REQUEST_ROUNDS = 100, 5
LANE_US = 36.0
"""CPU time of a request beside batch, validation and answer: sockets, HTTP, the batcher's bookkeeping,
metrics. What `make bench` finds for the tiny model, 42 µs a request (tests/benchmarks/serving), less the 6
that these three take of it. A load test puts what it sees in its place."""


@dataclass
class _Cell:
    """A batch on the session of so many threads, and the seconds of a run, by round."""

    threads: int
    rows: int
    length: int
    run: Callable[[], Tensors]
    seconds: list[float] = field(default_factory=list)

    @property
    def typical(self) -> float:
        return float(np.median(self.seconds))

    @property
    def cost(self) -> Cost:
        return self.rows, self.length, self.typical * 1000


def measure(
    model: Path,
    contract: Contract,
    rows: Sequence[dict[str, Any]],
    plan: Plan,
    too_long_ms: float,
    clock: Clock,
    cores: int,
    machine: str,
    tokenizer: Tokenizes | None = None,
    opens: Callable[[Path, Contract, Plan], Any] = open_engine,
) -> Profile:
    """The profile of an ONNX file on this machine.

    `rows` are real ones, as clients send them (`core.rows.to_records`), at most a thousand or so; texts among
    them need the `tokenizer`. Of the plan count the device and the lengths; its threads and max_batch_size
    are measured beside the powers of two. No batch is measured beyond the first that takes `too_long_ms`, as
    it could never be served. `clock` gives seconds, `cores` are those that may be used, `machine` names them.

    A model of some µs takes 3 s, one of many ms at several lengths up to a minute. On a GPU batches are
    filled up to the powers of two, as they will be, and `crowding` goes by the sessions that share it.
    Raises what opening and running a session raises.
    """
    batches, plan = Batches(contract, rows, tokenizer), _with_all_sizes(plan)
    sessions = partial(_warm, partial(opens, model, contract), plan)
    is_gpu = plan.device == "cuda"
    threads = [plan.threads] if is_gpu else sorted({*_powers(cores), plan.threads})
    with sessions(threads) as opened:
        engines = dict(zip(threads, opened, strict=True))
        cells = list(_cells(engines, batches, plan, too_long_ms / 1000, clock))
        _take_turns(cells, clock)
        request_us = LANE_US + _request_us(batches, cells[0].run(), clock)

    def crowded(threads: int, sessions_at_once: int) -> float:
        cell = _telling([cell for cell in cells if cell.threads == threads], too_long_ms / 1000)
        with sessions([threads] * sessions_at_once) as opened:
            feeds = batches.feeds(cell.rows, cell.length)
            return crowding(opened, feeds if is_gpu else lengthened(opened[0], feeds, clock), clock)

    return Profile(
        subject=sha256(model),
        machine=machine,
        cores=cores,
        device=plan.device,
        costs={of: tuple(cell.cost for cell in cells if cell.threads == of) for of in threads},
        crowding={streams: crowded(plan.threads, streams) for streams in _powers(MOST_STREAMS)}
        if is_gpu
        else {of: crowded(of, max(1, cores // of)) for of in threads},
        lengths=tuple(batches.lengths),
        request_us=request_us,
    )


def _powers(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length())]


def _with_all_sizes(plan: Plan) -> Plan:
    """For one process; on a GPU, with buffers for every batch that is measured."""
    rows = tuple(sorted({*_powers(MOST_ROWS), plan.max_batch_size}))
    plan = replace(plan, workers=1, replicas=1)
    return replace(plan, padded_batch_sizes=rows, max_batch_size=rows[-1]) if plan.device == "cuda" else plan


@contextmanager
def _warm(opens: Callable[[Plan], Any], plan: Plan, threads: Sequence[int]) -> Iterator[list[Any]]:
    """One session for each number of threads, together on the machine."""
    with ExitStack() as stack:
        engines = []
        for of in threads:
            engines.append(opens(replace(plan, threads=of, replicas=len(threads))))
            stack.callback(engines[-1].close)
            if plan.padded_batch_sizes:
                engines[-1].warm_up(plan)
        yield engines


# The table.


def _cells(engines: dict, batches: Batches, plan: Plan, too_long: float, clock: Clock) -> Iterator[_Cell]:
    """Each session's batches, growing until a run takes too long; each has run and was timed once."""
    for threads, engine in engines.items():
        for length in plan.lengths if batches.lengths else (0,):
            for rows in sorted({*_powers(MOST_ROWS), plan.max_batch_size}):
                cell = _Cell(threads, rows, length, batches.on(engine, rows, length, clock))
                cell.run()
                is_long = _time(cell, 1, clock) > too_long and _time(cell, 1, clock) > too_long
                yield cell
                if is_long:
                    break


def _take_turns(cells: Sequence[_Cell], clock: Clock) -> None:
    """Time all cells in every round, in turn."""
    repeats = [max(1, round(ROUND_SECONDS / max(1e-9, cell.typical))) for cell in cells]
    a_round = sum(times * cell.typical for times, cell in zip(repeats, cells, strict=True))
    turn = list(zip(cells, repeats, strict=True))
    for at in range(max(1, min(ROUNDS, int(TABLE_SECONDS / max(1e-9, a_round))))):
        for cell, times in turn if at % 2 else reversed(turn):
            _time(cell, times, clock)


def _time(cell: _Cell, repeats: int, clock: Clock) -> float:
    started = clock()
    for _ in range(repeats):
        cell.run()
    cell.seconds.append((clock() - started) / repeats)
    return cell.seconds[-1]


def _telling(cells: Sequence[_Cell], too_long: float) -> _Cell:
    """The longest run that may be served."""
    return max(cells, key=lambda cell: cell.typical if cell.typical <= too_long else -cell.typical)


def _request_us(batches: Batches, answer: Tensors, clock: Clock) -> float:
    """What a request of one row takes beside the batch and `LANE_US`."""
    run, taken = batches.requests(REQUESTS, answer), []
    for _ in range(REQUEST_ROUNDS):
        started = clock()
        requests = run()
        taken.append((clock() - started) / requests)
    return float(np.median(taken)) * 1e6
