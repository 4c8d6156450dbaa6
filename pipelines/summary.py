"""What an installation has to say for itself: read from the ledger and the folders of artifacts, as data."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.assets.common import load_contract
from pipelines.core.drift import DriftReport
from pipelines.core.home import Home
from pipelines.core.ladder import Ladder
from pipelines.core.spec import ModelSpec
from pipelines.defs.resources import Installation


def status_of(installation: Installation) -> list[dict]:
    """One entry a model in production; an empty list when nothing was released yet."""
    return [_status(installation, model) for model in installation.ledger.models()]


def _status(installation: Installation, model: str) -> dict:
    entry, serving = installation.ledger.production(model), installation.deployments.status(model)
    month = last_month(installation.home, model, "scores")
    return {
        "model": model,
        "version": entry.version if entry else None,
        "release_id": entry.release_id if entry else None,
        "rung": entry.rung if entry else None,
        "since": entry.at if entry else None,
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


def ladder_table(release: Path) -> Table:
    """The rungs that were tried, and why each won or lost. `release` is the folder of the version."""
    ladder = Ladder.load(release / "release_model" / "ladder.json")
    table = Table(title=f"Rungs, judged on {ladder.rows:,} held-out rows", title_justify="left")
    for column in ("rung", ladder.metric, "95 % interval", "KiB", *(f"× at {n}" for n in ladder.batch_sizes)):
        table.add_column(column, justify="left" if column == "rung" else "right")
    table.add_column("verdict")
    for rung in ladder.rungs:
        speeds = [
            f"{rung.speedup[str(n)]['median']:.2f}" if rung.speedup else "–" for n in ladder.batch_sizes
        ]
        judged = rung.value is not None
        table.add_row(
            f"[bold]{rung.rung}[/]" if rung.chosen else rung.rung,
            f"{rung.value:.4f}" if judged else "–",
            f"{rung.low:.4f}–{rung.high:.4f}" if judged else "–",
            f"{(rung.size_bytes or 0) / 1024:.0f}",
            *speeds,
            f"{'served' if rung.chosen else rung.outcome}: {rung.why}",
        )
    return table


def load_table(release: Path) -> Table:
    """The stages of the load test."""
    load = json.loads((release / "load_test" / "load.json").read_text())
    table = Table(
        title=f"Load test: p99 at most {load['p99_limit_ms']:g} ms, errors {load['max_error_rate']:.1%}",
        title_justify="left",
    )
    for column in ("stage", "offered/s", "throughput/s", "p50 ms", "p99 ms", "requests", "errors"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in load["stages"]:
        table.add_row(
            stage["name"],
            f"{stage['rate_rps']:g}",
            f"{stage['throughput_rps']:.1f}",
            f"{stage['p50_ms']:.1f}",
            f"{stage['p99_ms']:.1f}",
            f"{stage['requests']:,}",
            f"{stage['errors']:,}",
        )
    return table


def load_seconds(release: Path) -> float:
    """How long the load test offered load."""
    load = json.loads((release / "load_test" / "load.json").read_text())
    return sum(stage["seconds"] for stage in load["stages"])


def scored_rows(home: Home, model: str, month: str) -> int:
    """How many rows of the month have a score."""
    return json.loads((home.month(model, "scores", month) / "summary.json").read_text())["rows"]


def example_request(installation: Installation, model: ModelSpec) -> str:
    """The JSON body of a request with one real row: the first of the holdout."""
    import pyarrow.parquet as pq

    entry = installation.ledger.production(model.name)
    contract = load_contract(installation.home.root / entry.artifact) if entry else None
    columns = [field.name for field in contract.inputs] if contract else None
    batch = next(pq.ParquetFile(installation.home.data(model.data.holdout)).iter_batches(1, columns=columns))
    row = {name: round(v, 4) if isinstance(v, float) else v for name, v in batch.to_pylist()[0].items()}
    return json.dumps({"rows": [row]})
