"""`seatrial dossier`: from a release, or from the id of one prediction, back to all that it rests on; whether
it holds is looked up again at that moment."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from bentos.watching.segments import NAME
from pipelines.core.dossier import Dossier
from pipelines.core.entries import NOTHING, Entry
from pipelines.core.errors import EvidenceMissing, SettingsInvalid
from pipelines.core.evidence import Finding, ImageDigest, examine
from pipelines.core.home import Home
from pipelines.core.release import Release
from pipelines.gateways.ledger import Ledger
from pipelines.gateways.notebooks import Notebooks, Papermill
from pipelines.installation import PROJECT, Installation

FOLDER, CHECK_FILE, NOTEBOOK = "dossier", "check.json", "dossier"
ASKED = ("request_id", "time", "model", "version", "release_id", "way", "source", "total_ms")
"""What is shown of a prediction; what was asked and answered stays in the log."""


@dataclass(frozen=True)
class Check:
    """What was found of a release at one moment.

    file      its dossier; None where that can't be read
    entries   of the ledger that are about it, oldest first
    asked     the prediction that was asked for; empty where none was
    """

    release: Release
    at: str
    file: Path | None
    findings: tuple[Finding, ...]
    entries: tuple[Entry, ...]
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def faults(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if not each.holds)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "release_id": self.release.release_id,
            "at": self.at,
            "holds": not self.faults,
            "findings": [asdict(each) for each in self.findings],
            "history": [_line(each) for each in self.entries],
            "asked": dict(self.asked),
        }


def _line(entry: Entry) -> dict[str, Any]:
    release, details = entry.release, entry.details
    return {
        "sequence": entry.sequence,
        "at": entry.at,
        "action": entry.action,
        "release_id": release.release_id if release else None,
        "rollout": entry.rollout,
        "weight": details.get("state", {}).get("weight"),
        "mirrored": details.get("state", {}).get("mirrored"),
        "why": details.get("why", ""),
        "digest": entry.digest,
    }


def look_up(home: Home, request_id: str) -> dict[str, Any]:
    """The prediction with this x-request-id, as the prediction log has it. Raises SettingsInvalid."""
    import pyarrow.parquet as pq

    for segment in sorted(home.prediction_log("").glob(f"*/{NAME}")):
        found = pq.read_table(segment, columns=list(ASKED), filters=[("request_id", "==", request_id)])
        if found.num_rows:
            first = found.slice(0, 1).to_pylist()[0]
            return {**first, "time": first["time"].isoformat(timespec="milliseconds"), "rows": found.num_rows}
    mend = "no prediction log holds it: it is older than what is kept, not captured, or not on the disk yet"
    raise SettingsInvalid("--request", request_id, mend)


def check(
    home: Home,
    ledger: Ledger,
    image_digest: ImageDigest,
    release_id: str,
    asked: Mapping[str, Any],
) -> Check:
    """Look at everything now: the ledger's chain, the dossier, every file. Raises SettingsInvalid where no
    entry is about the release."""
    release, entries = _found(ledger, release_id)
    folder, at = folder_of(home, release), datetime.now(UTC).isoformat(timespec="milliseconds")
    try:
        dossier = Dossier.load(folder, release)
    except EvidenceMissing as error:
        faults = (Finding("the ledger", ledger.fault() or ""), Finding("the dossier", error.reason))
        return Check(release, at, None, faults, entries, asked)
    chain = ledger.fault(dossier.head.get("digest", NOTHING))
    findings = (Finding("the ledger", chain or ""), Finding("the dossier"))
    findings += tuple(examine(dossier, home.root, image_digest, home.evidence))
    return Check(release, at, dossier.file(folder), findings, entries, asked)


def folder_of(home: Home, release: Release) -> Path:
    """Where the dossiers of its version lie."""
    return home.artifact(release.model, release.version, FOLDER)


def _found(ledger: Ledger, release_id: str) -> tuple[Release, tuple[Entry, ...]]:
    for model in ledger.models():
        history = ledger.history(model)
        own = [each for each in history if each.release and each.release.release_id == release_id]
        if own and own[-1].release:
            rollouts = {each.rollout for each in own if each.rollout}
            about = tuple(each for each in history if each in own or each.rollout in rollouts)
            return own[-1].release, about
    mend = "no entry of the ledger is about it; `seatrial status` has the ids of what serves"
    raise SettingsInvalid("RELEASE_ID", release_id, mend)


def write(found: Check, home: Home, notebooks: Notebooks) -> Path | None:
    """Keep what was found beside the dossier, as JSON and as a page. Returns the page, None without one."""
    folder = folder_of(home, found.release)
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / CHECK_FILE
    kept.write_text(json.dumps(found.to_dict(), indent=2) + "\n")
    if found.file is None:
        return None
    return notebooks.run(NOTEBOOK, {"dossier_file": found.file, "check_file": kept}, folder).html


def print_check(found: Check, page: Path | None, console: Console) -> None:
    """In short: what is behind the release, and what does not hold."""
    release, faults = found.release, found.faults
    console.print(f"[bold]{release.model} version {release.version}[/], release {release.release_id}")
    if found.asked:
        console.print(f"  answered the request {escape(found.asked['request_id'])} at {found.asked['time']}")
    for entry in found.entries:
        console.print(f"  {entry.at}  {entry.action}  (entry {entry.sequence} of the ledger)")
    for fault in faults:
        console.print(f"  [red]does not hold[/]: {escape(fault.fault)}")
    kept = sum(each.kept for each in found.findings)
    if kept:
        replaced = "1 file was" if kept == 1 else f"{kept} files were"
        console.print(f"  {replaced} replaced since; evidence/ has what was judged")
    looked = len(found.findings)
    held = f"{looked - len(faults)} of {looked}" if faults else f"All {looked}"
    console.print(f"{held} things that were looked at hold: the ledger, the dossier, gates and files.")
    if found.file and page:
        console.print(f"Dossier   {found.file}\nPage      {page}", soft_wrap=True)


@dataclass(frozen=True)
class Given:
    """What the command was given: the id of a release or of a prediction, and a file for the page."""

    release_id: str | None = None
    request_id: str | None = None
    html: Path | None = None


def run_dossier(doors: Installation, given: Given, console: Console) -> bool:
    """The command. Whether all holds."""
    if (given.release_id is None) == (given.request_id is None):
        mend = "give it, or --request and the id of a prediction"
        raise SettingsInvalid("RELEASE_ID", given.release_id, mend)

    def image_digest(reference: str) -> str | None:  # only who runs containers needs an engine
        return doors.containers.digest(reference)

    asked = look_up(doors.home, given.request_id) if given.request_id else {}
    found = check(doors.home, doors.ledger, image_digest, given.release_id or asked["release_id"], asked)
    page = write(found, doors.home, Papermill(PROJECT / "notebooks"))
    if given.html and page:
        given.html.parent.mkdir(parents=True, exist_ok=True)
        page = shutil.copyfile(page, given.html)
    print_check(found, page, console)
    return not found.faults
