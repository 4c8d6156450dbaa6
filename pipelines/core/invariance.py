"""Whether a row's answer depends on the rows it happens to be batched with.

Dynamic INT8 takes the scale of its activations from the whole batch, so one stranger with large values makes
everybody's answer coarse. What is served in batches must not do that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bentos.contract import Contract, Field
from bentos.engines.engine import ModelOutputInvalid
from pipelines.core.evaluate import Kind, Runs, Tensors, predict, row_count, shift, take

ROWS = 256
BATCH_ROWS = 64
OUTLIER_TIMES = (20.0, 10.0, 5.0, 2.0, 1.0)
"""How far out outliers are, in the largest magnitude seen: the farthest that the model still answers."""


@dataclass(frozen=True)
class Invariance:
    """The largest movement of a row's answer from being scored alone, measured as `evaluate.shift` does.

    among_random     among other rows of the data
    among_outliers   among rows of which one is as extreme as the contract lets pass
    flips            decisions that turned, where most did
    """

    among_random: float
    among_outliers: float
    flips: int

    @property
    def worst(self) -> float:
        return max(self.among_random, self.among_outliers)


def batch_invariance(
    engine: Runs, feeds: Tensors, contract: Contract, output: str, kind: Kind, threshold: float = 0.5
) -> Invariance:
    """Score the first 256 rows alone, among 63 random mates, and among mates of which one is an outlier.

    The outlier is a real row with every float input at its bound, or, where it has none, at 20 times the
    largest magnitude in `feeds`, once upwards and once downwards; integers and codes of categories stay. An
    outlier that the model can't answer comes closer until it can: the service would score it apart. Seeded.
    """
    some = take(feeds, slice(0, ROWS))
    alone = predict(engine, some, 1)[output]
    order = np.random.default_rng(0).permutation(row_count(some))
    random = shift(alone[order], predict(engine, take(some, order), BATCH_ROWS)[output], kind, threshold)
    shifts = [
        shift(alone[order], _among(engine, take(some, order), outlier, output), kind, threshold)
        for outlier in _outliers(engine, feeds, contract)
    ]
    flips = max(moved.flips for moved in (random, *shifts))
    return Invariance(random.max, max((moved.max for moved in shifts), default=random.max), flips)


def _among(engine: Runs, feeds: Tensors, outlier: Tensors, output: str) -> np.ndarray:
    """The answers of all rows, each scored in a batch that ends with the outlier."""
    answers = []
    for start in range(0, row_count(feeds), BATCH_ROWS - 1):
        batch = take(feeds, slice(start, start + BATCH_ROWS - 1))
        crowd = {name: np.concatenate([tensor, outlier[name]]) for name, tensor in batch.items()}
        answers.append(engine.run(crowd)[output][:-1])
    return np.concatenate(answers)


def _outliers(engine: Runs, feeds: Tensors, contract: Contract) -> Iterator[Tensors]:
    """One row far up and one far down, each as far out as the model still answers."""
    for upwards in (True, False):
        for times in OUTLIER_TIMES:
            row = {
                field.name: _extreme(field, feeds[field.name], upwards, times) for field in contract.inputs
            }
            try:
                engine.run(row)
            except ModelOutputInvalid:
                continue
            yield row
            break


def _extreme(field: Field, values: np.ndarray, upwards: bool, times: float) -> np.ndarray:
    """The first row's tensor of one input, (1, …), pushed out where the contract lets it."""
    if values.dtype.kind != "f" or field.categories is not None:
        return values[:1]
    bound = field.maximum if upwards else field.minimum
    if bound is None:
        seen = float(np.abs(values[np.isfinite(values)]).max(initial=0)) or 1.0
        farthest = min(times * seen, float(np.finfo(values.dtype).max))
        bound = farthest if upwards else -farthest
    return np.full_like(values[:1], bound)
