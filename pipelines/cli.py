"""The `seatrial` command: the few things one wants at a prompt; all else is `dg` and the Dagster UI."""

import atexit
import gc
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from bentos.contract import ContractViolation
from bentos.manifest import ManifestMismatch
from pipelines import ledger_cli
from pipelines.core.errors import SeatrialError
from pipelines.installation import Installation

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(highlight=False, soft_wrap=True)
app.add_typer(ledger_cli.app, name="ledger")


@app.command()
def demo(month: Annotated[str, typer.Option(help="The month to score.")] = "2013-04") -> None:
    """Take the example from its data to a served, scored and watched release, and leave it running."""
    from pipelines.demo import run_demo

    run_demo(_installation(), month, console)


@app.command()
def release(uri: Annotated[str, typer.Argument(help="models:/NAME@ALIAS")]) -> None:
    """Release the version that the alias points to: export, quantize, judge, load-test, serve."""
    from pipelines.demo import run_release

    run_release(_installation(), uri, console)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="As data, for programs.")] = False,
    watch: Annotated[
        str | None, typer.Option(help="Show the rollout of this model until it is over.")
    ] = None,
) -> None:
    """What serves and since when, and what is being rolled out; what was scored last, and whether it
    drifted."""
    from pipelines.rollouts import print_rollout, rollout_of, watch_rollout
    from pipelines.summary import print_status, status_of

    installation = _installation()
    if watch:
        return watch_rollout(installation, watch, console)
    found = status_of(installation)
    rollouts = {each["model"]: rollout_of(installation, each["model"]) for each in found}
    if as_json:
        data = [{**each, "rollout": rollouts[each["model"]]} for each in found]
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
    else:
        print_status(found, console)
        for rollout in filter(None, rollouts.values()):
            print_rollout(rollout, console)


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="The name of a model that was released.")],
    peak: Annotated[
        float | None,
        typer.Option(help="Requests a second that the fleet must hold, nothing added; default: as promised."),
    ] = None,
    p99: Annotated[
        float | None, typer.Option(help="The p99 to keep, in milliseconds; default: as promised.")
    ] = None,
    price: Annotated[float | None, typer.Option(help="Of one core for an hour, in any currency.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Default: the one in production, else the latest that was load-tested.")
    ] = None,
    regions: Annotated[int, typer.Option(help="Replicas are spread evenly over so many; one may fail.")] = 1,
    max_error_rate: Annotated[
        float | None, typer.Option(help="The share of requests that may fail; default: as promised.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As data, for programs.")] = False,
) -> None:
    """How many replicas a rate takes, what they cost, and what failures do to them: without a server, from
    what the load test recorded."""
    from pipelines.planner import Wish, foretell, print_plan

    wish = Wish(peak, p99, max_error_rate, price, regions)
    found = foretell(_installation(), model, version, wish)
    if as_json:
        sys.stdout.write(json.dumps(found.told(), indent=2) + "\n")
    else:
        print_plan(found, console)


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="The name of a model that serves.")],
    why: Annotated[str, typer.Option(help="Kept in the ledger.")] = "a person asked for it",
) -> None:
    """End the rollout of a model, or put the release before into production again, at once. Needs neither
    Dagster nor the registry."""
    from pipelines.rollouts import go_back

    go_back(_installation(), model, why, console)


@app.command()
def dossier(
    release_id: Annotated[
        str | None, typer.Argument(help="As answers carry it in x-release-id.", show_default=False)
    ] = None,
    request: Annotated[
        str | None, typer.Option(help="The x-request-id of a prediction, in place of a release.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="A file for the page; it always lies beside.")] = None,
) -> None:
    """What is behind a release, from its answers back to the data, and whether all of it still holds: the
    ledger, the gates and every file are looked at again. Exit status 1 where something does not hold."""
    from pipelines.dossiers import Given, run_dossier

    if not run_dossier(_installation(), Given(release_id, request, html), console):
        raise typer.Exit(1)


@app.command()
def down() -> None:
    """Stop every process that was started. `seatrial demo` or `release` starts them again."""
    installation = _installation()
    running = sorted(installation.deployments.processes.states())
    installation.deployments.down()
    console.print(f"Stopped {', '.join(running)}." if running else "Nothing was running.")


def _installation() -> Installation:
    installation = Installation.from_environment()
    installation.prepare()
    return installation


def main() -> None:
    """Run the command. An error of ours is one sentence on stderr and exit status 1.

    The libraries make millions of objects that stay. Looking through them for garbage, over and over and once
    more at the exit, takes four seconds of a demo.
    """
    gc.set_threshold(50_000, 20, 100)
    atexit.register(gc.freeze)
    try:
        app()
    except (SeatrialError, ContractViolation, ManifestMismatch) as error:
        says = f"[red]seatrial:[/] {escape(str(error))}"
        Console(stderr=True, highlight=False, soft_wrap=True).print(says, markup=True)
        sys.exit(1)
