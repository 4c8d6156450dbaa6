"""Results: one JSON file a benchmark, a part a scenario; and a table for who watches."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table


def save(path: Path, scenario: str, machine: Mapping, figures: Mapping) -> None:
    """Replace the part of one scenario. `machine` is what it was like when the measuring began."""
    results = json.loads(path.read_text()) if path.exists() else {}
    results[scenario] = {"machine": machine, **figures}
    path.write_text(json.dumps(results, indent=2) + "\n")


def show(title: str, rows: Sequence[Mapping]) -> None:
    """Print rows of equal keys; the keys are the headings."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)
