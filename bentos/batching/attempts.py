"""One batch in the model, and what is done when that fails: halves, and halves of halves, until only the jobs
that make a run fail are left. All others get the answer of a batch without those; one bad job among n costs
about 2 log2(n) more runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from bentos.batching.assembly import Assembly
from bentos.batching.waiting import Part
from bentos.engines.engine import ModelOutputInvalid
from bentos.work import Job, Tensors


class Runs(Protocol):
    """An engine. Where it has an `overlap` above 1, so many runs of it may be under way at once."""

    def run(self, feeds: Tensors) -> Mapping[str, np.ndarray]: ...


@dataclass(slots=True)
class Attempt:
    """What came of a batch: the answer to each part, and the jobs that make a run fail, each with the error.
    Times in seconds on the batcher's clock."""

    answered: list[tuple[Part, Tensors]] = field(default_factory=list)
    failed: list[tuple[Job, BaseException]] = field(default_factory=list)
    runs: int = 0
    began: float = 0.0
    assembled: float = 0.0
    ended: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether the first run answered all."""
        return self.runs == 1 and not self.failed


def attempt(
    engine: Runs,
    assembly: Assembly,
    clock: Callable[[], float],
    parts: list[Part],
    feeds: Tensors | None = None,
) -> Attempt:
    """Run a batch whose input tensors are `feeds`; None: they are made here. Never raises. A batch that all
    clients have left is not run."""
    made = Attempt(began=clock())
    if not all(part.job.cancelled for part in parts):
        _halve(engine, assembly, clock, parts, feeds, made)
    made.ended = clock()
    return made


def _halve(
    engine: Runs,
    assembly: Assembly,
    clock: Callable[[], float],
    parts: list[Part],
    feeds: Tensors | None,
    made: Attempt,
) -> None:
    made.runs += 1
    try:
        feeds = assembly.inputs(parts) if feeds is None else feeds
        made.assembled = made.assembled or clock()
        outputs = engine.run(feeds)
        _check_rows(outputs, sum([stop - start for _, start, stop in parts]))
        made.answered += assembly.answers(parts, feeds, outputs)
    except BaseException as error:  # noqa: BLE001  (ONNX Runtime's errors have no base; a panic is no Exception)
        if len(parts) == 1:
            made.failed.append((parts[0].job, error))
            return
        middle = len(parts) // 2
        for half in (parts[:middle], parts[middle:]):
            _halve(engine, assembly, clock, half, None, made)


def _check_rows(outputs: Mapping[str, np.ndarray], rows: int) -> None:
    for name, values in outputs.items():
        if len(values) != rows:
            raise ModelOutputInvalid(name, f"has {len(values)} rows for {rows}", "wrong_rows")
