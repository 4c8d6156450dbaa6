"""Rollouts from the prompt: how one stands from moment to moment, and going back."""

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pipelines.core.errors import RegistryUnreachable
from pipelines.core.evidence import check_target
from pipelines.gateways.alias import settle
from pipelines.gateways.journal import Journal
from pipelines.installation import Installation

LOOK_SECONDS = 1.0


def rollout_of(installation: Installation, model: str) -> dict[str, Any] | None:
    """The latest rollout of the model, as data; None where there never was one."""
    rollouts = installation.ledger.standing(model).rollouts
    if not rollouts:
        return None
    rollout, live = rollouts[-1], None
    if rollout.outcome is None:
        live = Journal(installation.home).latest(model)
    seen = live if live and live["state"]["since"] == rollout.state.since else None
    return {
        "number": rollout.number,
        "release_id": rollout.canary.release_id,
        "version": rollout.canary.version,
        "outcome": rollout.outcome,
        "steps": [str(step) for step in rollout.plan.steps],
        "step": rollout.state.step,
        "weight": rollout.state.weight,
        "mirrored": rollout.state.mirrored,
        "why": seen["state"]["why"] if seen else rollout.state.why,
        "seconds": seen["seconds"] if seen else None,
        "stable": seen["stable"] if seen else None,
        "canary": seen["canary"] if seen else None,
        "findings": seen["findings"] if seen else [],
        "troubles": seen["troubles"] if seen else {},
    }


def print_rollout(found: dict[str, Any], console: Console) -> None:
    """The same for people."""
    console.print(_table(found))


def _table(found: dict[str, Any]) -> Table:
    steps = " → ".join(
        f"[bold]{step}[/]" if at == found["step"] and not found["outcome"] else step
        for at, step in enumerate(found["steps"])
    )
    title = f"rollout {found['number']}: {found['release_id']}, {found['outcome'] or 'goes on'}"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_row("plan", steps)
    table.add_row("users", f"{found['weight']:.0%}")
    if found["mirrored"]:
        table.add_row("mirrored", f"{found['mirrored']:.0%}")
    for arm in ("stable", "canary"):
        if found[arm]:
            table.add_row(arm, f"{found[arm]['requests']:,} requests, {found[arm]['errors']:,} errors")
    for finding in found["findings"]:
        table.add_row(finding["name"], f"{finding['outcome']}: {finding['why']}")
    for name, trouble in found["troubles"].items():
        table.add_row(name, f"[red]{escape(trouble)}[/]")
    table.add_row("why", escape(found["why"]))
    return table


def watch_rollout(installation: Installation, model: str, console: Console) -> None:
    """Show the latest rollout of the model until it is over."""
    with Live(console=console, refresh_per_second=4) as live:
        while found := rollout_of(installation, model):
            live.update(_table(found))
            if found["outcome"]:
                return
            time.sleep(LOOK_SECONDS)  # the ledger tells nobody of its entries


def go_back(installation: Installation, model: str, why: str, console: Console) -> None:
    """End the rollout of the model, or bring the former release back, and say how long it took. Raises
    NothingInProduction, NoWayBack, ServiceFailed, and EvidenceMissing where the former release is gone or is
    not what it was."""
    installation.deployments.draining.aside = lambda work: None  # services are ended by the controller
    found = installation.ledger.standing(model)
    if found.rollout is None and found.former:
        check_target(found.former, installation.home.root, installation.containers.digest)
    began = time.perf_counter()
    release = installation.deployments.roll_back(model, why)
    seconds = time.perf_counter() - began
    console.print(f"{release.release_id} serves all users of {model} after {seconds:.2f} s.")
    try:
        settle(installation.ledger, installation.registry, model)
    except RegistryUnreachable as error:
        console.print(f"The alias in the registry will follow: {error}", markup=False)
