"""Reports that are only remembered: `runs` holds what was asked for, the files hold the parameters."""

import json
from collections.abc import Mapping
from pathlib import Path

from pipelines.gateways.notebooks import Notebooks, Report


class FakeNotebooks(Notebooks):
    def __init__(self) -> None:
        self.runs: list[tuple[str, dict[str, object]]] = []

    def run(self, name: str, parameters: Mapping[str, object], into: Path) -> Report:
        self.runs.append((name, dict(parameters)))
        report = Report(into / f"{name}.ipynb", into / f"{name}.html")
        into.mkdir(parents=True, exist_ok=True)
        for path in (report.notebook, report.html):
            path.write_text(json.dumps(parameters, default=str))
        return report
