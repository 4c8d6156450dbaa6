"""Whether the clients of one release can talk to another: two contracts, compared from the clients' side.

The service refuses unknown keys, missing keys and values out of range, and clients read outputs by name. So
what counts is which requests are accepted and which outputs are there; the order of fields and the codes of
categories are nobody's business but the model's.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bentos.contract import Contract, Field, Text
from pipelines.core.verdict import Verdict, judge

Level = Literal["full", "backward", "breaking"]
Difference = tuple[Level, str]

GATE = "contract_compatible_with_production"
JSON_TYPES = {"b": "a boolean", "i": "a whole number", "u": "a whole number", "f": "a number"}
NAMED = 5
"""So many categories are listed by name, the rest counted."""


@dataclass(frozen=True)
class Compatibility:
    """What clients of production would notice of the candidate.

    level         full: nothing; backward: all that they send is accepted and all that they read is there;
                  breaking: something is not
    differences   one sentence each, which names the field and ends in its level
    """

    level: Level
    differences: tuple[str, ...] = ()


def compare_contracts(candidate: Contract, production: Contract) -> Compatibility:
    """Compare from the side of clients that were written for `production`."""
    found = [
        *_compare("input", candidate.inputs, production.inputs),
        *_compare("output", candidate.outputs, production.outputs),
        *_text_changes(candidate.text, production.text),
    ]
    levels = {level for level, _ in found}
    worst: Level = "breaking" if "breaking" in levels else "backward" if levels else "full"
    return Compatibility(worst, tuple(f"{sentence} ({level})" for level, sentence in found))


def judge_compatibility(
    candidate: Contract, production: Contract | None, allowed: bool, subject: str, version: str | None
) -> Verdict:
    """Whether clients of version `version`, which is in production, can talk to the candidate.

    A breaking contract fails unless `allowed`. `subject` is the digest or tag of the candidate.
    """
    if production is None:
        return judge(GATE, subject, [], "no other version is in production", production_version=version)
    found = compare_contracts(candidate, production)
    numbers = {"production_version": version, "level": found.level}
    if found.level == "full":
        return judge(GATE, subject, [], f"has the inputs and outputs of version {version}", **numbers)
    told = "; ".join(found.differences)
    if found.level == "backward":
        return judge(GATE, subject, [], f"understands the clients of version {version}: {told}", **numbers)
    if allowed:
        praise = f"breaks the clients of version {version}, which allow_breaking_contract permits: {told}"
        return judge(GATE, subject, [], praise, **numbers)
    mend = "set allow_breaking_contract once they are ready for it"
    return judge(GATE, subject, [f"breaks the clients of version {version}: {told}", mend], "", **numbers)


def _compare(role: str, candidate: Sequence[Field], production: Sequence[Field]) -> Iterator[Difference]:
    ours, theirs = ({field.name: field for field in fields} for fields in (candidate, production))
    changes = _input_changes if role == "input" else _output_changes
    for name, before in theirs.items():
        if name not in ours:
            yield "breaking", f"{role} {name}: is gone"
            continue
        for level, change in changes(ours[name], before):
            yield level, f"{role} {name}: {change}"
    for name in ours:
        if name not in theirs:
            yield ("breaking" if role == "input" else "backward"), f"{role} {name}: is new"


def _output_changes(now: Field, before: Field) -> Iterator[Difference]:
    if _json_type(now) != _json_type(before):
        yield "breaking", f"{_json_type(now)} was {_json_type(before)}"
    elif now.dtype != before.dtype:
        yield "backward", f"{now.dtype} was {before.dtype}"
    if now.shape != before.shape:
        yield "breaking", f"shape {_shape(now)} was {_shape(before)}"
    if now.nullable != before.nullable:
        yield ("breaking", "may be missing now") if now.nullable else ("backward", "is never missing now")


def _input_changes(now: Field, before: Field) -> Iterator[Difference]:
    if _json_type(now) == _json_type(before) == "a category":
        yield from _category_changes(now, before)
    elif not _takes(now, before):
        yield "breaking", f"{_json_type(now)} was {_json_type(before)}"
    elif _json_type(now) != "a boolean":
        yield from _number_changes(now, before)
    if now.shape != before.shape:
        same_rank = len(now.shape) == len(before.shape)
        fits = same_rank and all(map(_fits, now.shape, before.shape))
        yield ("backward" if fits else "breaking"), f"shape {_shape(now)} was {_shape(before)}"
    if now.max_length != before.max_length:
        grows = (now.max_length or math.inf) > (before.max_length or math.inf)
        change = f"longest {_bound(now.max_length)} was {_bound(before.max_length)}"
        yield ("backward" if grows else "breaking"), change
    if now.nullable != before.nullable:
        yield ("backward", "may be missing now") if now.nullable else ("breaking", "may not be missing now")


def _text_changes(now: Text | None, before: Text | None) -> Iterator[Difference]:
    """Whoever sends tokens goes on to; so a text may come, but not go. Where it is cut, the model answers."""
    if before and (now is None or now.name != before.name):
        yield "breaking", f"text {before.name}: is gone"
    if now and (before is None or now.name != before.name):
        yield "backward", f"text {now.name}: is new"
    elif now and before and now.max_tokens != before.max_tokens:
        yield "backward", f"text {now.name}: is cut at {now.max_tokens} tokens, was at {before.max_tokens}"


def _category_changes(now: Field, before: Field) -> Iterator[Difference]:
    names, old_names = now.categories or (), before.categories or ()
    if lost := [name for name in old_names if name not in names]:
        change = "count as unknown now" if now.open else "are refused now"
        yield ("backward" if now.open else "breaking"), f"categories {_listed(lost)} {change}"
    if gained := [name for name in names if name not in old_names]:
        yield "backward", f"categories {_listed(gained)} are new"
    if now.open != before.open:
        change = "other strings are accepted now" if now.open else "other strings are refused now"
        yield ("backward" if now.open else "breaking"), change


def _number_changes(now: Field, before: Field) -> Iterator[Difference]:
    """The sets of accepted numbers are intervals: of the dtype, cut by the contract's range."""
    (low, high), (old_low, old_high) = _interval(now), _interval(before)
    if now.dtype != before.dtype:
        least, most = _holds(now)
        fits = least <= old_low and old_high <= most
        yield ("backward" if fits else "breaking"), f"{now.dtype} was {before.dtype}"
    if now.minimum != before.minimum:
        change = f"minimum {_bound(now.minimum)} was {_bound(before.minimum)}"
        yield ("backward" if low <= old_low else "breaking"), change
    if now.maximum != before.maximum:
        change = f"maximum {_bound(now.maximum)} was {_bound(before.maximum)}"
        yield ("backward" if old_high <= high else "breaking"), change


def _json_type(field: Field) -> str:
    return "a category" if field.categories is not None else JSON_TYPES[np.dtype(field.dtype).kind]


def _takes(now: Field, before: Field) -> bool:
    """Whether a field accepts the other's type of JSON value: every whole number is a number."""
    return _json_type(now) == _json_type(before) or (
        _json_type(now) == "a number" and _json_type(before) == "a whole number"
    )


def _fits(size: int, old_size: int) -> bool:
    return size in (-1, old_size)


def _holds(field: Field) -> tuple[float, float]:
    """The smallest and the largest number of the field's dtype."""
    limits = np.finfo(field.dtype) if _json_type(field) == "a number" else np.iinfo(field.dtype)
    return float(limits.min), float(limits.max)


def _interval(field: Field) -> tuple[float, float]:
    """The smallest and the largest number that the service accepts."""
    low, high = _holds(field)
    low = low if field.minimum is None else field.minimum
    high = high if field.maximum is None else field.maximum
    return (low, high) if _json_type(field) == "a number" else (math.ceil(low), math.floor(high))


def _bound(value: float | None) -> str:
    return "none" if value is None else f"{value:.15g}"


def _shape(field: Field) -> str:
    return "×".join("any" if size == -1 else str(size) for size in field.shape[1:]) or "of one value"


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
