"""What an installation has to say for itself: read from the ledger and the folders of artifacts, as data."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.core.capacity.proof import Load
from pipelines.core.contracts import load_contract
from pipelines.core.drift import DriftReport
from pipelines.core.errors import NothingInProduction
from pipelines.core.home import Home
from pipelines.core.ladder import Ladder, RungReport
from pipelines.core.rows import to_records
from pipelines.core.spec import ModelSpec
from pipelines.installation import Installation


def status_of(installation: Installation) -> list[dict]:
    """One entry a model in production; an empty list when nothing was released yet."""
    return [_status(installation, model) for model in installation.ledger.models()]


def _status(installation: Installation, model: str) -> dict:
    standing, serving = installation.ledger.standing(model), installation.deployments.status(model)
    release = standing.production
    month = last_month(installation.home, model, "scores")
    return {
        "model": model,
        "version": release.version if release else None,
        "release_id": release.release_id if release else None,
        "rung": release.rung if release else None,
        "since": standing.since,
        "address": serving["address"],
        "ready": serving["ready"],
        "last_scored_partition": month,
        "drift_verdict": _drift_verdict(installation.home, model, month),
    }


def last_month(home: Home, model: str, asset: str) -> str | None:
    """The latest month that the asset has, e.g. "2013-04"."""
    folder = home.month(model, asset, "")
    months = sorted(path.name for path in folder.glob("[0-9]*")) if folder.is_dir() else []
    return months[-1] if months else None


def _drift_verdict(home: Home, model: str, month: str | None) -> str | None:
    path = home.month(model, "drift", month) / "drift.json" if month else None
    return DriftReport.load(path).verdict.outcome if path and path.exists() else None


def print_status(found: list[dict], console: Console) -> None:
    """The same for people."""
    if not found:
        console.print(
            "Nothing was released yet: run `seatrial demo`, or `seatrial release models:/NAME@ALIAS`."
        )
    for model in found:
        table = Table(title=model["model"], show_header=False, title_justify="left")
        for name, value in model.items():
            table.add_row(name.replace("_", " "), "–" if value is None else str(value))
        console.print(table)


def print_ladder(release: Path, console: Console) -> None:
    """The rungs that were tried, which one is served and why the others lost. `release` is the version's."""
    ladder = Ladder.load(release / "release_model" / "ladder.json")
    title = f"Rungs, judged on {ladder.rows:,} held-out rows; µs for a batch, and times as fast as fp32"
    table = _table(title, "rung", ladder.metric, "95 %", "KiB", *(f"{n} rows" for n in ladder.batch_sizes))
    for rung in ladder.rungs:
        table.add_row(f"[bold]{rung.rung}[/]" if rung.chosen else rung.rung, *_figures(rung, ladder))
    console.print(table)
    for rung in ladder.rungs:
        says = f"  {rung.rung} {'is served' if rung.chosen else 'lost'}: {rung.why}"
        console.print(says, markup=False)


def _figures(rung: RungReport, ladder: Ladder) -> list[str]:
    if rung.value is None:
        return ["–"] * (3 + len(ladder.batch_sizes))
    speeds = (
        f"{rung.latency_us[str(rows)]:.0f} µs  {rung.speedup[str(rows)]['median']:.2f}x"
        for rows in ladder.batch_sizes
    )
    return [
        f"{rung.value:.4f}",
        f"±{(rung.high - rung.low) / 2:.4f}" if rung.low is not None and rung.high is not None else "–",
        f"{(rung.size_bytes or 0) / 1024:.0f}",
        *speeds,
    ]


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def load_table(release: Path) -> Table:
    """The stages of the load test."""
    load = Load.load(release / "load_test")
    title = f"Load test: p99 at most {load.p99_ms:g} ms, errors at most {load.max_error_rate:.1%}"
    columns = ("sent/s", "ok/s", "p50 ms", "p99 ms", "requests", "refused", "failed")
    table = _table(title, "stage", *columns)
    for stage in (step.stage for step in load.candidate.steps):
        table.add_row(
            stage.name,
            f"{stage.rate_rps:,.0f}",
            f"{stage.throughput_rps:,.0f}",
            f"{stage.p50_ms:.1f}",
            f"{stage.p99_ms:.1f}",
            f"{stage.requests:,}",
            f"{stage.refused:,}",
            f"{stage.errors - stage.refused:,}",
        )
    return table


def starting_seconds(release: Path) -> float:
    """How long the services of the load test took to start."""
    return Load.load(release / "load_test").starting_seconds


def scored_rows(home: Home, model: str, month: str) -> int:
    """How many rows of the month have a score."""
    return json.loads((home.month(model, "scores", month) / "summary.json").read_text())["rows"]


def example_request(installation: Installation, model: ModelSpec) -> str:
    """The JSON body of a request with one real row: the first of the holdout. Raises NothingInProduction."""
    import pyarrow.parquet as pq

    release = installation.ledger.production(model.name)
    if release is None:
        raise NothingInProduction(model.name)
    contract = load_contract(installation.home.root / release.artifact)
    batch = next(pq.ParquetFile(installation.home.data(model.data.holdout)).iter_batches(1))
    return json.dumps({"rows": _rounded(to_records(contract, batch.to_pandas()))})


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value
