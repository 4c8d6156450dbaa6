"""A dossier from what was recorded on the way of a release: digests are those of then, not those of now."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bentos.manifest import MODEL_FILE, Manifest, ManifestMismatch
from pipelines.core.capacity.proof import Load
from pipelines.core.dossier import Dossier, Judged
from pipelines.core.entries import DAMAGED
from pipelines.core.errors import EvidenceMissing
from pipelines.core.exhibits import Exhibit, below, collect
from pipelines.core.home import Home
from pipelines.core.how import HOW_FILE
from pipelines.core.ladder import Ladder
from pipelines.core.release import Release
from pipelines.core.rollout.routing import limits_of
from pipelines.core.verdict import Verdict

BEFORE, AFTER = ("registered_model", "onnx_model"), ("release_model", "bento", "load_test")
"""The assets that leave a record, before and after the rungs."""
LATE = {"image": "image.json", "drill": "drill.json"}
"""What those have to say that not every release has."""
ADVICE = "serving_plan"
OF_RUNG = ("rung", "outcome", "chosen", "why", "value", "low", "high", "overall_speedup", "sha256")
OF_STAGE = ("name", "rate_rps", "throughput_rps", "p50_ms", "p99_ms", "requests", "refused", "errors")
OF_LOAD = ("p99_ms", "max_error_rate", "expected_peak_rps")


def gather(
    home: Home,
    model: str,
    version: str,
    head: tuple[int, str],
    at: str,
    *,
    path: str,
    registered: str,
    in_container: bool = False,
    max_rps: float | None = None,
) -> Dossier:
    """Bring together what there is of a version that is to be deployed.

    `head` is the ledger's, `at` the time in UTC, ISO 8601; the rest are settings that its Release is made
    with: `in_container`, it runs from its image. Raises EvidenceMissing where something was never made, or
    two records disagree.
    """
    subject, folder = f"{model} version {version}", home.artifact(model, version, "")
    try:
        manifest, bento = Manifest.load(folder / "bento"), _read(folder / "bento" / "bento.json")
        artifact = (folder / "release_model").relative_to(home.root).as_posix()
        release = Release(
            model, version, manifest.release_id, manifest.rung, bento["tag"], path, artifact,
            {"files": dict(manifest.files)}, registered=registered, limits=limits_of(manifest.plan, max_rps),
        )  # fmt: skip
        packed = Exhibit(f"packed/{MODEL_FILE}", below(home.root, Path(bento["model"])), manifest.sha256)
        late = [name for name in LATE if (folder / name).exists() and name != "image"]
        return _gathered(home, folder, release, packed, [*late, *["image"] * in_container], head, at)
    except FileNotFoundError as error:
        missing = Path(error.filename)
        raise EvidenceMissing(subject, f"it has no {missing.parent.name}/{missing.name}") from error
    except ManifestMismatch as error:
        raise EvidenceMissing(subject, f"its bento is damaged ({error})") from error
    except DAMAGED as error:
        raise EvidenceMissing(subject, _damage(home, folder, error)) from error


def _gathered(
    home: Home,
    folder: Path,
    release: Release,
    packed: Exhibit,
    after: Sequence[str],
    head: tuple[int, str],
    at: str,
) -> Dossier:
    subject = f"{release.model} version {release.version}"
    ladder, how = (
        Ladder.load(folder / "release_model" / "ladder.json"),
        _read(folder / "release_model" / HOW_FILE),
    )
    late = {name: _read(folder / name / LATE[name]) for name in after}
    assets = [*BEFORE, *(rung.rung for rung in ladder.rungs), *AFTER, *late]
    exhibits = collect(subject, home.root, [folder / asset for asset in assets])
    return Dossier(
        replace(release, image=late.get("image", {}).get("reference", "")),
        _read(folder / "registered_model" / "fetched.json"),
        how["settings"]["label"],
        {**exhibits, packed.name: packed},
        tuple(_judged(folder / asset for asset in (*assets, ADVICE))),
        {"metric": ladder.metric, "rows": ladder.rows, "rungs": [_some(OF_RUNG, r) for r in ladder.rungs]},
        _load(Load.load(folder / "load_test")),
        how["versions"],
        late,
        {"sequence": head[0], "digest": head[1]},
        at,
    )


def _damage(home: Home, folder: Path, error: Exception) -> str:
    """Which of the files can't be read."""
    for file in sorted(folder.glob("*/*.json")):
        try:
            _read(file)
        except ValueError:
            return f"{below(home.root, file)} is damaged"
    return f"its records are not such as they are written ({error!r})"


def _judged(folders: Iterable[Path]) -> Iterable[Judged]:
    for file in (file for folder in folders for file in sorted(folder.glob("*.verdict.json"))):
        yield Judged(file.parent.name, Verdict.from_dict(_read(file)))


def _load(load: Load) -> dict[str, Any]:
    """What was promised, and how it came."""
    trial = load.candidate
    stages = [{"kind": step.kind, **_some(OF_STAGE, step.stage)} for step in trial.steps]
    reached = {"knee_rps": trial.knee_rps, "knee_reached": trial.knee_reached, "cores": trial.cores}
    return {**_some(OF_LOAD, load), **reached, "stages": stages}


def _some(names: Sequence[str], of: Any) -> dict[str, Any]:
    found: Mapping[str, Any] = asdict(of)
    return {name: found[name] for name in names}


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())
