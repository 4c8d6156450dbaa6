"""`seatrial ledger`: whether the chain holds, and what it says of a model."""

from textwrap import shorten
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.core.entries import NOTHING, Entry
from pipelines.core.errors import LedgerUnusable, SettingsInvalid
from pipelines.installation import Installation

app = typer.Typer(no_args_is_help=True, help="The record of production: is it whole, what does it say?")
console = Console(highlight=False, soft_wrap=True)

WHY_CHARACTERS = 90


@app.command()
def verify(
    head: Annotated[
        str, typer.Option(help="A digest that was written down earlier: it must be in the chain.")
    ] = NOTHING,
) -> None:
    """Read every entry again, and see that none was changed, left out or put in. Write down the digest that
    this prints: with it, `--head` also finds a ledger that was cut off or written anew."""
    ledger = Installation.from_environment().ledger
    if fault := ledger.fault(head.strip().lower()):
        raise LedgerUnusable(
            ledger.where, fault, "find out who could write to it, and restore it from a backup"
        )
    entries, digest = ledger.head()
    console.print(
        f"The ledger {escape(ledger.where)} holds: {entries:,} entries, the last with the digest {digest}"
    )


@app.command()
def show(model: Annotated[str, typer.Argument(help="The name of a model that was released.")]) -> None:
    """All that was ever done to production, oldest first."""
    ledger = Installation.from_environment().ledger
    history = ledger.history(model)
    if not history:
        known = ", ".join(ledger.models())
        raise SettingsInvalid("MODEL", model, f"there are {known}" if known else "nothing was released yet")
    table = Table("at", "action", "version", "release", "why")
    for entry in history:
        table.add_row(*map(escape, _cells(entry)))
    console.print(table)


def _cells(entry: Entry) -> tuple[str, ...]:
    version, release_id = (entry.release.version, entry.release.release_id) if entry.release else ("", "")
    return (
        entry.at,
        entry.action,
        version,
        release_id,
        shorten(str(entry.details.get("why", "")), WHY_CHARACTERS, placeholder=" …"),
    )
