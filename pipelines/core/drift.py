"""A month against the reference, column by column: the one place that knows Evidently.

What Evidently would do silently is settled here: every column has its own method and threshold (its defaults
change with the number of rows), a missing column is an error (it is dropped otherwise), a column without any
value is a finding (it raises otherwise), and the verdict is ours (by default half of all columns may drift).
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bentos.contract import Contract, Field, Text
from pipelines.core.errors import ContractBroken, SettingsInvalid
from pipelines.core.spec import ColumnDrift, MonitoringSpec
from pipelines.core.verdict import Verdict, judge

if TYPE_CHECKING:
    import pandas as pd

GATE = "no_drift"
SEED = 0
P_VALUES = ("ks", "chisquare")
"""Methods whose score is a p-value, so drift is below the threshold; the others are distances."""
_NUMERIC_ONLY = ("wasserstein", "ks")
_CATEGORICAL_ONLY = ("chisquare",)

Rules = dict[Field, ColumnDrift]


@dataclass(frozen=True)
class ColumnResult:
    """How far one column moved. `score` is None where there is nothing to compare."""

    column: str
    role: Literal["input", "output"]
    method: str
    threshold: float
    score: float | None
    drifted: bool

    def __str__(self) -> str:
        if self.score is None:
            return f"{self.role} {self.column} has no values on one side"
        side, kind = ("below", "p-value") if self.method in P_VALUES else ("at or above", "distance")
        return f"{self.role} {self.column} ({self.method} {kind} {self.score:.3g}, {side} {self.threshold:g})"


@dataclass(frozen=True)
class DriftReport:
    """One month's drift. Rows are counted before sampling; `drifted_share` is None if they were too few."""

    month: str
    rows_current: int
    rows_reference: int
    columns: tuple[ColumnResult, ...]
    drifted_share: float | None
    verdict: Verdict

    def to_dict(self) -> dict:
        return asdict(self)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "DriftReport":
        fields = json.loads(path.read_text())
        columns = tuple(ColumnResult(**column) for column in fields["columns"])
        return cls(**{**fields, "columns": columns, "verdict": Verdict.from_dict(fields["verdict"])})


def measure_drift(
    reference: "pd.DataFrame",
    current: "pd.DataFrame",
    contract: Contract,
    spec: MonitoringSpec,
    html: Path,
    *,
    subject: str,
    month: str,
) -> DriftReport:
    """Compare the contract's scalar inputs and outputs, and what `with_text_length` adds, in both frames, and
    write Evidently's page to `html`.

    Fewer rows than `spec.min_rows` on either side are inconclusive, and no page is written. Raises
    ContractBroken for a column that is missing or mistyped, SettingsInvalid for a method that does not fit.
    """
    rules = _rules(contract, spec, reference.columns.intersection(current.columns))
    sides = {"reference": reference, "current": current}
    few = [] if rules else ["no column holds one value a row: there is nothing to compare"]
    few += [
        f"{len(frame):,} {side} rows of at least {spec.min_rows:,}: too few to tell"
        for side, frame in sides.items()
        if len(frame) < spec.min_rows
    ]
    if few:
        verdict = Verdict(GATE, "inconclusive", subject, tuple(few), {"rows_current": len(current)})
        return DriftReport(month, len(current), len(reference), (), None, verdict)
    samples = {side: _sample(side, frame, rules, spec.max_rows) for side, frame in sides.items()}
    columns = _compare(samples["reference"], samples["current"], rules, contract, html)
    share = sum(column.drifted for column in columns) / len(columns)
    verdict = _judge(columns, share, spec, subject, len(current))
    return DriftReport(month, len(current), len(reference), columns, share, verdict)


def with_text_length(contract: Contract, frame: "pd.DataFrame") -> "pd.DataFrame":
    """The frame with how many characters each text has, where there are texts: what they are compared by."""
    if contract.text is None or contract.text.name not in frame:
        return frame
    return frame.assign(**{_length_of(contract.text): frame[contract.text.name].str.len()})


def _length_of(text: Text) -> str:
    return f"{text.name}_length"


def _rules(contract: Contract, spec: MonitoringSpec, columns: Iterable[str]) -> Rules:
    """Method and threshold of every column that holds one value a row, and of the length of texts."""
    fields = [field for field in (*contract.inputs, *contract.outputs) if len(field.shape) == 1]
    if contract.text and _length_of(contract.text) in columns:
        fields.append(Field(_length_of(contract.text), "int64"))
    if unknown := sorted(spec.columns.keys() - {field.name for field in fields}):
        known = ", ".join(field.name for field in fields)
        raise SettingsInvalid("monitoring.columns", unknown[0], f"the columns are {known}")
    rules = {}
    for field in fields:
        default = spec.prediction if field in contract.outputs else _default(field, spec)
        rules[field] = spec.columns.get(field.name, default)
        unfit = _CATEGORICAL_ONLY if field.categories is None else _NUMERIC_ONLY
        if rules[field].method in unfit:
            kind = "numeric" if field.categories is None else "categorical"
            mend = f"the column is {kind}, so take jensenshannon, psi, kl_div or hellinger"
            raise SettingsInvalid(f"The drift method of {field.name}", rules[field].method, mend)
    return rules


def _default(field: Field, spec: MonitoringSpec) -> ColumnDrift:
    return spec.numeric if field.categories is None else spec.categorical


def _sample(side: str, frame: "pd.DataFrame", rules: Rules, max_rows: int) -> "pd.DataFrame":
    """At most `max_rows` rows, the same ones each time: numbers as floats, categories as objects."""
    missing = [field.name for field in rules if field.name not in frame]
    if missing:
        raise ContractBroken(
            f"The {side} data", f"{missing[0]} is missing", "write it with the other columns"
        )
    types = {field.name: "float64" if field.categories is None else "object" for field in rules}
    some = frame.reindex(columns=list(types)).sample(min(len(frame), max_rows), random_state=SEED)
    try:
        return some.astype(types).mask(lambda values: values.isin([math.inf, -math.inf]))
    except (TypeError, ValueError) as error:
        raise ContractBroken(f"The {side} data", f"a number is expected ({error})", "correct it") from error


def _compare(
    reference: "pd.DataFrame", current: "pd.DataFrame", rules: Rules, contract: Contract, html: Path
) -> tuple[ColumnResult, ...]:
    empty = {
        field.name: (reference[field.name].isna().all(), current[field.name].isna().all()) for field in rules
    }
    scores = _evidently(reference, current, {f: r for f, r in rules.items() if not any(empty[f.name])}, html)
    return tuple(
        ColumnResult(
            field.name,
            "output" if field in contract.outputs else "input",
            rule.method,
            rule.threshold,
            # All values gone, or come from nowhere, is drift; nothing on both sides is not.
            *scores.get(field.name, (None, len(set(empty[field.name])) == 2)),
        )
        for field, rule in rules.items()
    )


def _evidently(
    reference: "pd.DataFrame", current: "pd.DataFrame", rules: Rules, html: Path
) -> Mapping[str, tuple[float | None, bool]]:
    """Score and Evidently's own decision by column, so that page and verdict cannot differ."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    definition = DataDefinition(
        numerical_columns=[field.name for field in rules if field.categories is None],
        categorical_columns=[field.name for field in rules if field.categories is not None],
    )
    metrics = [
        ValueDrift(column=field.name, method=rule.method, threshold=rule.threshold)
        for field, rule in rules.items()
    ]
    now, then = (Dataset.from_pandas(frame, data_definition=definition) for frame in (current, reference))
    snapshot = Report(metrics, include_tests=True).run(now, then)
    html.parent.mkdir(parents=True, exist_ok=True)
    partial = html.with_name(f".{html.name}.partial")
    snapshot.save_html(str(partial))
    partial.replace(html)
    found = json.loads(snapshot.json())
    scores = {metric["config"]["column"]: metric["value"] for metric in found["metrics"]}
    return {
        column: (scores[column] if math.isfinite(scores[column]) else None, test["status"] == "FAIL")
        for test in found["tests"]
        for column in [test["metric_config"]["params"]["column"]]
    }


def _judge(
    columns: tuple[ColumnResult, ...], share: float, spec: MonitoringSpec, subject: str, rows: int
) -> Verdict:
    drifted = [column for column in columns if column.drifted]
    count = f"{len(drifted)} of {len(columns)} columns drifted"
    names = [str(column) for column in drifted]
    failures = []
    if share > spec.max_drifted_share:
        failures.append(f"{count}, more than the {spec.max_drifted_share:.0%} that may")
    if failures or any(column.role == "output" for column in drifted):
        failures += [f"{name} drifted" for name in names]
    praise = f"{count}, at most {spec.max_drifted_share:.0%} may, and no output did"
    praise += f": {', '.join(names)}" if names else ""
    numbers = {"rows_current": rows, "drifted": len(drifted), "columns": len(columns), "drifted_share": share}
    return judge(GATE, subject, failures, praise, **numbers)
