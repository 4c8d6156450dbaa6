"""The contract as a Great Expectations suite: rows are judged before anything is learned or made from them.

Two rounds, because a check of values breaks on a column that is missing or of the wrong type: first whether
every column is there and of its type, then the values of those that are. Each expectation carries what it
demands and how to mend a breach in its `meta`; sentences and table are written from that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bentos.contract import Contract, Field
from pipelines.core.texts import STRING, given_fields
from pipelines.core.verdict import Verdict, judge

if TYPE_CHECKING:
    import pandas as pd

GATE = "expectations"
KNOWN_SHARE = 0.95
"""Of the values of an open field, at least this share must be known categories."""

_NUMBERS = ["int", "float", "bool", "float16", "float32", "float64"]
_NUMBERS += [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
_STRINGS = ["str", "StringDtype"]
_LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Validation:
    """The verdict on some rows, and every expectation with what was found as a Markdown table."""

    verdict: Verdict
    markdown: str


def validate_rows(
    contract: Contract,
    frame: "pd.DataFrame",
    what: str,
    *,
    key: str | None,
    label: str | None = None,
    binary: bool = True,
    subject: str,
) -> Validation:
    """Judge input rows by the contract's inputs, key and label. `what` names them: "holdout", "2013-04";
    `binary` says that the labels are 0 and 1."""
    some = _expect(
        "ExpectTableRowCountToBeBetween",
        "hold at least one row",
        "check what should have written them",
        min_value=1,
    )
    extra = [*_key(key), *_label(label, binary)]
    fields = given_fields(contract, frame.columns)
    return _validate(frame, what, fields, [key, label], some, extra, subject)


def validate_scores(
    contract: Contract, frame: "pd.DataFrame", key: str, expected_rows: int, *, subject: str
) -> Validation:
    """Judge scored rows: one for each input row, and outputs that are finite and within their bounds."""
    mend = "look at the inputs of these rows and score them again"
    demand = f"hold {expected_rows:,} rows"
    every = _expect("ExpectTableRowCountToEqual", demand, mend, value=expected_rows)
    return _validate(frame, "scores", contract.outputs, [key], every, [*_key(key)], subject, mend)


def _validate(
    frame,
    what: str,
    fields: tuple[Field, ...],
    others: list,
    rows,
    extra: list,
    subject: str,
    mend: str | None = None,
) -> Validation:
    """`rows` is what the table must hold, `extra` are checks of the `others`, columns outside the contract.
    `mend` replaces the mends of the single expectations."""
    frame = frame.astype(dict.fromkeys(frame.select_dtypes("category"), object))
    columns = [*(field.name for field in fields), *filter(None, others)]
    structure = _run(frame, [rows, *map(_present, columns), *_types(fields, frame)])
    broken = {_column(result) for result in structure if not result.success}
    values = [*(check for field in fields for check in _values(field)), *extra]
    results = structure + _run(frame, [check for check in values if check.column not in broken])
    failures = [_sentence(what, frame, result, mend) for result in results if not result.success]
    praise = f"all {len(results)} expectations hold for {len(frame):,} {what} rows"
    numbers = {"rows": len(frame), "evaluated": len(results), "failed": len(failures)}
    return Validation(judge(GATE, subject, failures, praise, **numbers), _markdown(frame, results))


def _types(fields: tuple[Field, ...], frame) -> Iterator:
    for field in fields:
        if field.name in frame and len(field.shape) == 1:
            demand, mend, types = "hold numbers", f"write it as {field.dtype}", _NUMBERS
            if field.categories is not None or field.dtype == STRING:
                demand, mend, types = "hold strings", "write it as text", _STRINGS
            yield _expect(
                "ExpectColumnValuesToBeInTypeList", demand, mend, column=field.name, type_list=types
            )


def _values(field: Field) -> Iterator:
    if field.categories is not None or not field.nullable:
        yield _filled(field.name)
    if len(field.shape) > 1 or field.dtype == STRING:
        return
    if field.categories is not None:
        yield _known(field, field.categories)
    else:
        yield _within(field)
        if np.dtype(field.dtype).kind in "iu":
            yield _whole(field)


def _expect(kind: str, demand: str, mend: str, **settings):
    from great_expectations import expectations

    return getattr(expectations, kind)(meta={"demand": demand, "mend": mend}, **settings)


def _present(column: str):
    return _expect("ExpectColumnToExist", "be a column", "add it to the data", column=column)


def _filled(column: str):
    return _expect(
        "ExpectColumnValuesToNotBeNull", "never be empty or NaN", "fill or drop these rows", column=column
    )


def _key(key: str | None) -> Iterator:
    if key:
        yield _filled(key)
        yield _expect("ExpectColumnValuesToBeUnique", "be unique", "drop the duplicates", column=key)


def _label(label: str | None, binary: bool) -> Iterator:
    if label:
        yield _filled(label)
    if label and binary:
        yield _expect(
            "ExpectColumnValuesToBeInSet", "be 0 or 1", "correct the labels", column=label, value_set=[0, 1]
        )


def _known(field: Field, categories: tuple[str, ...]):
    share = KNOWN_SHARE if field.open else 1
    return _expect(
        "ExpectColumnValuesToBeInSet",
        f"be one of its {len(categories)} categories" + (f" in {share:.0%} of the rows" * field.open),
        "correct these rows, or train again with the new categories",
        column=field.name,
        value_set=list(categories),
        mostly=share,
    )


def _within(field: Field):
    """The bounds of the field; where it has none the largest float, which only infinity exceeds."""
    low = -_LARGEST if field.minimum is None else field.minimum
    high = _LARGEST if field.maximum is None else field.maximum
    bounds = [f"at least {low:g}"] * (low > -_LARGEST) + [f"at most {high:g}"] * (high < _LARGEST)
    return _expect(
        "ExpectColumnValuesToBeBetween",
        "be " + (" and ".join(bounds) or "finite"),
        "correct these rows, or the range in defs.yaml",
        column=field.name,
        min_value=low,
        max_value=high,
    )


def _whole(field: Field):
    """By the text of the number, for there is no "is whole" to expect: 7, 7.0 and 7.5e+16 are."""
    return _expect(
        "ExpectColumnValuesToMatchRegex",
        "hold whole numbers",
        "round these rows",
        column=field.name,
        regex=r"^-?\d+(?:\.0|(?:\.\d+)?e\+\d+)?$",
    )


def _run(frame, expectations: list) -> list:
    import great_expectations as gx
    from great_expectations.data_context.types import base

    stores = base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    config = base.DataContextConfig(
        store_backend_defaults=stores,
        progress_bars=base.ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    return batch.validate(gx.ExpectationSuite(name="contract", expectations=expectations)).results


def _column(result) -> str | None:
    return result.expectation_config.kwargs.get("column")


def _finding(frame, result) -> str:
    """What was seen instead, e.g. "3 of 1,000 rows break this, e.g. 'ZZ'", or nothing."""
    found, column = result.result, _column(result)
    if "unexpected_count" in found:
        count = found["unexpected_count"]
        verb = "breaks" if count == 1 else "break"
        examples = [
            value for value in found["partial_unexpected_list"] if value == value and value is not None
        ]
        example = f", e.g. {examples[0]!r}" if examples else ""
        return f"{count:,} of {len(frame):,} rows {verb} this{example}"
    if "observed_value" in found:
        return f"it holds {frame[column].dtype if column else found['observed_value']}"
    return ""


def _sentence(what: str, frame, result, mend: str | None) -> str:
    meta, finding = result.expectation_config.meta, _finding(frame, result)
    but = f", but {finding}" if finding else ""
    return f"{what}: {_column(result) or 'the table'} must {meta['demand']}{but}; {mend or meta['mend']}"


def _markdown(frame, results: list) -> str:
    lines = ["| | column | must | found |", "|---|---|---|---|"]
    for result in results:
        finding = "" if result.success else _finding(frame, result).replace("|", "\\|")
        mark, demand = "✓" if result.success else "✗", result.expectation_config.meta["demand"]
        lines.append(f"| {mark} | {_column(result) or 'the table'} | {demand} | {finding} |")
    return "\n".join(lines)
