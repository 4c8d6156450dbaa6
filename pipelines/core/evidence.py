"""The evidence of a release, read again before it may serve: complete, passing, and about this very artifact.

Blocking checks hold only inside one run of the graph; whatever starts a deployment, this must hold. Every
file is read from end to end each time, for nothing less shows that it is still the same (`exhibits`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bentos.manifest import MODEL_FILE
from pipelines.core.dossier import SERVED, Dossier
from pipelines.core.errors import ContainersFailed, EvidenceMissing
from pipelines.core.exhibits import Exhibit
from pipelines.core.release import Release

GATES = {
    "registered_model": ("contract_holds",),
    "onnx_model": ("parity",),
    "release_model": (
        "accuracy_non_inferior_to_fp32",
        "accuracy_non_inferior_to_production",
        "contract_compatible_with_production",
        "fairness_within_limits",
    ),
    "load_test": ("answers_like_onnx", "within_slo", "overload_is_bounded", "no_leak"),
    "drill": ("rollback_rehearsed",),
}
"""The gates of each asset that a release must have passed."""
LATE = ("image",)
"""Assets whose gates count where there are any."""
COMPARED = "accuracy_non_inferior_to_production"

ImageDigest = Callable[[str], str | None]
"""The digest (sha256:…) that a container engine knows an image by, None where it has none."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what is wrong with it, in words; nothing where it holds. `kept` where
    another file has its place now, and it was read where it is kept."""

    what: str
    fault: str = ""
    kept: bool = False

    @property
    def holds(self) -> bool:
        return not self.fault


def verify(
    dossier: Dossier,
    root: Path,
    image_digest: ImageDigest,
    production: str | None,
    former: Release | None,
) -> None:
    """Whether the release may serve. Raises EvidenceMissing at the first thing that does not hold.

    `root` is SEATRIAL_HOME; `production` the version that serves now, which the comparison must have been
    with unless it is this very one, None for none; `former` the release that one would go back to, None for
    none.
    """
    for finding in examine(dossier, root, image_digest):
        if not finding.holds:
            raise EvidenceMissing(dossier.subject, finding.fault)
    compared = next(each.verdict for each in dossier.verdicts if each.verdict.gate == COMPARED)
    if production not in (dossier.release.version, compared.numbers.get("production_version")):
        serves = f"it was not compared with version {production}, which serves now"
        reason = serves if production else "it was compared with a version that does not serve any more"
        raise EvidenceMissing(dossier.subject, reason)
    if former:
        check_target(former, root, image_digest, dossier.subject)


def check_target(release: Release, root: Path, image_digest: ImageDigest, subject: str = "") -> None:
    """Whether one can go back to a release: it is still there, just as it was judged. `subject` is what is
    not deployed otherwise. Raises EvidenceMissing."""
    served = [Exhibit(**each) for each in release.evidence.get("served", ())]
    faults = [each.fault(root) for each in served] or ["its ledger entry names no bento"]
    faults.append(_image_fault(release, image_digest))
    if wrong := [fault for fault in faults if fault]:
        reason = f"there is no way back to version {release.version}, for {wrong[0]}"
        raise EvidenceMissing(subject or f"{release.model} version {release.version}", reason)


def examine(
    dossier: Dossier, root: Path, image_digest: ImageDigest, evidence: Path | None = None
) -> Iterator[Finding]:
    """Everything that the dossier says, held against itself and against what lies there now. With `evidence`,
    where files are kept (`exhibits.keep`), what was replaced since may be there, but for what serves."""
    yield from _gates(dossier)
    yield _lineage(dossier)
    for exhibit in sorted(dossier.exhibits.values(), key=lambda each: each.name not in SERVED):
        fault = exhibit.fault(root)
        if fault and evidence and exhibit.name not in SERVED and exhibit.kept(evidence):
            yield Finding(exhibit.name, kept=True)
        else:
            yield Finding(exhibit.name, fault)
    if dossier.release.image:
        yield Finding("image", _image_fault(dossier.release, image_digest))


def _gates(dossier: Dossier) -> Iterator[Finding]:
    judged = {(each.asset, each.verdict.gate): each.verdict for each in dossier.verdicts}
    late = [key for key in judged if key[0] in LATE]
    for asset, gate in [*((asset, gate) for asset, gates in GATES.items() for gate in gates), *late]:
        what, verdict = f"the gate {gate}", judged.get((asset, gate))
        if verdict is None:
            yield Finding(what, f"{what} was never judged")
        elif verdict.subject not in _subjects(dossier, asset):
            yield Finding(what, f"the verdict of {gate} is about another artifact")
        else:
            yield Finding(what, "" if verdict.passed else f"{what} says {verdict.outcome}: {verdict.why}")


def _subjects(dossier: Dossier, asset: str) -> tuple[str | None, ...]:
    """What the verdicts of an asset may be about."""
    release = dossier.release
    files = {
        "registered_model": f"registered_model/{dossier.registered['file']}",
        "onnx_model": f"onnx_model/{MODEL_FILE}",
        "release_model": f"release_model/{MODEL_FILE}",
    }
    return (dossier.sha256(files[asset]),) if asset in files else (release.tag, release.image or None)


def _lineage(dossier: Dossier) -> Finding:
    """The model in the bento is the one that was chosen, of the rung that won."""
    chosen = {each["sha256"] for each in dossier.ladder["rungs"] if each["chosen"]}
    names = (f"{dossier.release.rung}/{MODEL_FILE}", f"release_model/{MODEL_FILE}", f"packed/{MODEL_FILE}")
    same = len(chosen | {dossier.sha256(name) for name in names}) == 1
    return Finding(
        "the chosen model", "" if same else "the model in its bento is not the one that was judged"
    )


def _image_fault(release: Release, image_digest: ImageDigest) -> str:
    """`image` is name@sha256:…; an engine that knows it by another digest has another image."""
    try:
        found = image_digest(release.image) if release.image else ""
    except ContainersFailed as error:
        return f"its image {release.image} can't be looked at ({error})"
    if found == release.image.rpartition("@")[2]:
        return ""
    return f"its image {release.image} is {f'{found} now' if found else 'gone'}"
