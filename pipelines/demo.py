"""`seatrial demo` and `seatrial release`: the whole path from the prompt, and what was decided."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from rich.console import Console

from pipelines.assets.common import Chapter
from pipelines.components import ServedModel
from pipelines.core.drift import DriftReport
from pipelines.core.errors import ModelNotFound, RolledBack, SettingsInvalid
from pipelines.installation import Installation
from pipelines.runner import Runner
from pipelines.summary import example_request, load_table, print_ladder, scored_rows, starting_seconds

MODEL = "flight_delay"
EVERY_ASSET = "__ASSET_JOB"
TRAINING = ("flights", "splits", "trained_model")
SCORING = ("months", "scoring_input", "scores", "drift")
WORK = {
    "data and training": (*TRAINING, "months", "labels"),
    "export": ("onnx_model",),
    "quantization": ("fp32", "int8_dynamic", "int8_static"),
    "evaluation": ("registered_model", "release_model", "serving_plan", "drift", "performance"),
    "scoring": ("scoring_input", "scores"),
    "notebooks": ("release_report", "monitoring_report"),
}
"""Which asset is which kind of work. The load test counts from when its services are ready; what is left,
building bentos, starting services, Dagster itself, is orchestration."""


@dataclass(frozen=True)
class Session:
    """One command at work: the installation, its models and a runner."""

    installation: Installation
    models: dict[str, ServedModel]
    runner: Runner
    console: Console

    def release(self, model: ServedModel, version: str) -> Path:
        """Bring the release of a version up to date; returns its folder.

        What is in production serves meanwhile. If that is another version, this one is compared with it and
        deployed again even where nothing of it changed.
        """
        chapter, serving = Chapter(model), self.installation.ledger.production(model.name)
        if serving is not None:
            self.installation.deployments.ensure(model.name)
        self.runner.instance.add_dynamic_partitions(str(chapter.versions.name), [version])
        job, judged, deployed = (
            f"{model.name}_release",
            chapter.key("release_model"),
            chapter.key("deployment"),
        )
        if serving is None or serving.version == version:
            self.runner.refresh(job, version)
        else:
            optimized = [chapter.key(name) for name in ("registered_model", "onnx_model", *model.gate.rungs)]
            self.runner.refresh(job, version, only=[*optimized, judged], again=[judged])
            self.runner.refresh(job, version, again=[deployed])
        return chapter.of_version(self.installation.home, "", version)


def run_release(installation: Installation, uri: str, console: Console) -> None:
    """Release the version that models:/NAME@ALIAS points to. Raises ModelNotFound, RolledBack and what a step
    raises."""
    with _session(installation, console) as session:
        name, _, alias = uri.removeprefix("models:/").partition("@")
        model = next((m for m in session.models.values() if m.registered_name == name), None)
        if model is None:
            raise ModelNotFound(name)
        version = installation.registry.resolve(name, alias or model.alias)
        folder = session.release(model, version)
        _print_release(folder, console)
        _print_address(installation, model, console)
        rollouts = installation.ledger.standing(model.name).rollouts
        own = next((each for each in reversed(rollouts) if each.canary.version == version), None)
        if own and own.outcome == "rolled_back":
            raise RolledBack(own.canary.release_id, own.state.why)
        if own and own.outcome is None:
            console.print(f"Rollout          goes on, see `seatrial status --watch {model.name}`")


def run_demo(installation: Installation, month: str, console: Console) -> None:
    """Bring the example up to date from its data to a month's reports, see that it serves, and say so."""
    with _session(installation, console) as session:
        model, runner = session.models[MODEL], session.runner
        chapter = Chapter(model)
        if month not in chapter.months.get_partition_keys():
            raise SettingsInvalid(
                "--month", month, f"there are {', '.join(chapter.months.get_partition_keys())}"
            )
        keys = {name: chapter.key(name) for name in (*TRAINING, *SCORING, "monitoring_report")}
        runner.refresh(EVERY_ASSET, only=[keys[name] for name in TRAINING])
        version = installation.registry.resolve(model.registered_name, model.alias)
        folder = session.release(model, version)
        runner.refresh(f"{MODEL}_scoring", month, only=[keys[name] for name in SCORING])
        runner.refresh(f"{MODEL}_performance", month)
        runner.refresh(f"{MODEL}_scoring", month, only=[keys["monitoring_report"]])
        _print_release(folder, console)
        _print_month(chapter, installation, month, console)
        _print_address(installation, model, console)
        _print_times(session, folder)


@contextmanager
def _session(installation: Installation, console: Console) -> Iterator[Session]:
    from pipelines.definitions import tree

    found = tree()
    models = {model.name: model for model in found.get_all_components(ServedModel)}
    with dg.DagsterInstance.get() as instance:
        yield Session(installation, models, Runner(found.build_defs(), instance, console.print), console)


def _print_release(folder: Path, console: Console) -> None:
    print_ladder(folder, console)
    console.print(load_table(folder))
    console.print(f"Accuracy report  {folder / 'accuracy_report' / 'accuracy_review.html'}")
    console.print(f"Load report      {folder / 'load_report' / 'load_review.html'}")
    console.print(f"Release report   {folder / 'release_report' / 'release_review.html'}")


def _print_month(chapter: Chapter, installation: Installation, month: str, console: Console) -> None:
    home = installation.home
    report = DriftReport.load(chapter.of_month(home, "drift", month) / "drift.json")
    drifted = [column.column for column in report.columns if column.drifted]
    console.print(f"Scored           {scored_rows(home, chapter.spec.name, month):,} rows of {month}")
    console.print(f"Drift            {report.verdict.outcome}: {', '.join(drifted) or 'no column'} drifted")
    page = chapter.of_month(home, "monitoring_report", month) / "drift_review.html"
    console.print(f"Drift report     {page}")


def _print_address(installation: Installation, model: ServedModel, console: Console) -> None:
    address = installation.deployments.status(model.name)["address"]
    body = shlex.quote(example_request(installation, model))
    console.print(f"Serving at       {address}")
    curl = f"curl -s {address}/predict -H 'content-type: application/json' -d {body}"
    console.print(f"Try it           {curl}", markup=False)


def _print_times(session: Session, folder: Path) -> None:
    """Where the time went, and how much of it was orchestration."""
    times = session.runner.times
    spent = {
        work: sum(times.steps.get(f"{MODEL}/{name}", 0.0) for name in names) for work, names in WORK.items()
    }
    tested = times.steps.get(f"{MODEL}/load_test", 0.0)
    spent["load test"] = tested - starting_seconds(folder) if tested else 0.0
    rest = times.total - sum(spent.values())
    if not times.steps:
        session.console.print("Everything was up to date; nothing had to run.")
    parts = ", ".join(f"{work} {seconds:.1f} s" for work, seconds in spent.items() if seconds)
    share = f"orchestration {rest:.1f} s ({rest / times.total:.0%})"
    session.console.print(f"Took             {times.total:.1f} s: {', '.join(filter(None, (parts, share)))}")
