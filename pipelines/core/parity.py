"""The proof that the ONNX file answers like the registered model, at every length that may come."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bentos.contract import Contract, Field
from bentos.engines.engine import Engine, ModelOutputInvalid, runtime_errors
from pipelines.core.evaluate import Runs, Tensors, row_count, take
from pipelines.core.program import Program, ShapeRefused
from pipelines.core.refusals import first_line, refused
from pipelines.core.verdict import Verdict

LENGTHS = (1, 2, 7)
"""What a dimension fixed by accident does not survive, of a batch and of every other dynamic dimension."""

ROWS_AT_ONCE = 64
"""The batches in which all rows are run: the activations of more rows of long texts outgrow a machine."""


class _Failed(Exception):
    """One side gave no answer that could be compared."""


def source_model(form: str, source: Path, contract: Contract) -> Runs:
    """The registered model itself; `form` is "pt2" or "onnx". Raises ModelRefused."""
    if form != "onnx":
        return Program(source, contract)
    try:
        return Engine(source, contract)
    except runtime_errors() as error:
        mend = "log it again with its weights within the file"
        raise refused(source, f"ONNX Runtime can't load it ({first_line(error)})", mend) from error


def judge_parity(
    engine: Runs, source: Runs, feeds: Tensors, contract: Contract, tolerance: float, subject: str
) -> Verdict:
    """Whether the ONNX file answers like its source.

    Tried with 1, 2, 7 and all rows, and with every dynamic dimension beyond the first cut to 1, 2 and 7. Left
    out is what the source itself refuses (it may have a shortest length) or answers with NaN. A float may
    differ by `tolerance` times the larger of 1 and its size, integers and booleans not at all. `numbers` has
    the worst such difference of each output, None where only one side is finite, and the `rows` compared.
    """
    worst = dict.fromkeys((field.name for field in contract.outputs), (0.0, ""))
    tried: Counter[str] = Counter()
    failures = []
    try:
        for label, trial in _trials(feeds, contract):
            if found := _differences(engine, source, trial, label):
                tried[label] += row_count(trial)
                worst = {name: max(worst[name], (found[name], label)) for name in worst}
    except _Failed as failed:
        failures.append(str(failed))
    failures += [reason for f in contract.outputs if (reason := _complaint(f, *worst[f.name], tolerance))]
    if not tried and not failures:
        failures.append("the source model refuses all that was tried, or answers it with NaN")
    furthest, _ = max(worst.values())
    praise = f"differs from the source model by at most {furthest:.2g}, with {', '.join(tried)}"
    allowed = f" ({tolerance:g} is allowed, of its size where an answer exceeds 1)"
    return Verdict(
        "parity",
        "fail" if failures else "pass",
        subject,
        tuple(failures) or (praise + allowed,),
        {"rows": max(tried.values(), default=0)} | {name: _finite(by) for name, (by, _) in worst.items()},
    )


def _trials(feeds: Tensors, contract: Contract) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """What is run, each with its name in sentences."""
    count, few = row_count(feeds), take(feeds, slice(LENGTHS[-1]))
    for rows in (rows for rows in LENGTHS if rows < count):
        yield f"{rows} row{'s' if rows > 1 else ''}", take(feeds, slice(rows))
    for full, name in _dynamic_lengths(feeds, contract).items():
        for length in (length for length in LENGTHS if length < full):
            yield f"length {length} of {name}", _cut(few, contract, full, length)
    for start in range(0, count, ROWS_AT_ONCE):
        yield f"all {count:,} rows", take(feeds, slice(start, start + ROWS_AT_ONCE))


def _dynamic_lengths(feeds: Tensors, contract: Contract) -> dict[int, str]:
    """The lengths along dynamic dimensions beyond the batch, with the first input that has each."""
    found: dict[int, str] = {}
    for field in contract.inputs:
        for size, wanted in zip(feeds[field.name].shape[1:], field.shape[1:], strict=True):
            if wanted == -1:
                found.setdefault(size, field.name)
    return found


def _cut(feeds: Tensors, contract: Contract, full: int, length: int) -> dict[str, np.ndarray]:
    """All that is `full` long along a dynamic dimension is cut together: ids and their mask stay alike."""
    cuts = {}
    for field in contract.inputs:
        sizes = zip(feeds[field.name].shape[1:], field.shape[1:], strict=True)
        ends = (length if wanted == -1 and size == full else None for size, wanted in sizes)
        cuts[field.name] = feeds[field.name][:, *map(slice, ends)]
    return cuts


def _differences(engine: Runs, source: Runs, trial: dict[str, np.ndarray], label: str) -> dict[str, float]:
    """The largest difference of each output; empty where the source has nothing to compare with."""
    errors = (*runtime_errors(), RuntimeError, ValueError, IndexError, TypeError)
    try:
        expected = source.run(trial)
    except (ShapeRefused, ModelOutputInvalid):
        return {}
    except errors as error:
        raise _Failed(f"the source model fails with {label}: {first_line(error)}") from error
    try:
        answers = engine.run(trial)
    except errors as error:
        if isinstance(error, ModelOutputInvalid) and not all(np.isfinite(v).all() for v in expected.values()):
            return {}
        raise _Failed(f"the ONNX file fails with {label}: {first_line(error)}") from error
    return {name: _difference(name, answers[name], expected[name], label) for name in expected}


def _difference(name: str, found: np.ndarray, expected: np.ndarray, label: str) -> float:
    """Of floats in units of the larger of 1 and the expected size; infinite where one side is not finite."""
    if found.shape != expected.shape:
        shapes = f"{found.shape} where the source model's has {expected.shape}"
        raise _Failed(f"{name} has shape {shapes}, with {label}")
    unlike = (found != expected) & ((found == found) | (expected == expected))  # NaN is like NaN
    theirs, ours = expected[unlike].astype(np.float64), found[unlike].astype(np.float64)
    size = np.maximum(1, np.abs(theirs)) if expected.dtype.kind == "f" else 1
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.abs(ours - theirs) / size, nan=np.inf, posinf=np.inf).max(initial=0))


def _complaint(field: Field, difference: float, label: str, tolerance: float) -> str | None:
    allowed = tolerance if np.dtype(field.dtype).kind == "f" else 0
    if difference <= allowed:
        return None
    if not np.isfinite(difference):
        return f"{field.name} is NaN or infinite on one side only, with {label}"
    by = f"up to {difference:.3g}, more than {allowed:g}"
    return f"{field.name} differs from the source model by {by}, with {label}"


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None
