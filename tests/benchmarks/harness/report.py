"""Results: one JSON file a benchmark, a part a scenario; and a table for who watches."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.harness.machine import facts


def measured(path: Path, scenario: str, measure: Callable[[], dict], kept: bool) -> dict:
    """The figures of one scenario; if `kept`, in the place of its former ones, with what the machine was like
    when the measuring began."""
    machine, figures = facts(), measure()
    if kept:
        results = json.loads(path.read_text()) if path.exists() else {}
        results[scenario] = {"machine": machine, **figures}
        path.write_text(json.dumps(results, indent=2) + "\n")
    return figures


def show(title: str, rows: Sequence[Mapping]) -> None:
    """Print rows of equal keys; the keys are the headings."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)
