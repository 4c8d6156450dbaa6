"""The dossier of a release: all that is known of it in one document, from the data to the image, with the
digests of the files that say so. The document has a digest itself, which the ledger's entry carries.

A file that is changed later no longer has the digest that the dossier says; a dossier that is changed no
longer has the one that the ledger says; and the ledger is a chain.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bentos.manifest import MODEL_FILE
from pipelines.core.entries import digest_of
from pipelines.core.errors import EvidenceMissing
from pipelines.core.exhibits import Exhibit
from pipelines.core.release import Release
from pipelines.core.verdict import Verdict

SERVED = ("bento", "packed")
"""The exhibits that a release serves from: the bento, and the model that was packed for it."""


@dataclass(frozen=True)
class Judged:
    """The verdict on one gate, and the asset beside which it lies."""

    asset: str
    verdict: Verdict


@dataclass(frozen=True)
class Dossier:
    """Everything about one release.

    registered  uri, model_id and form of the model in MLflow, and the file that was fetched
    label       the column of the holdout that holds the truth
    exhibits    all files that are evidence, by name
    ladder      metric, rows, and what came of each rung
    load_test   what was promised, and its stages
    versions    of the libraries that made it
    late        what the assets image and drill have to say, where there are such
    head        sequence and digest of the ledger's last entry when this was written
    at          when that was, UTC, ISO 8601
    """

    release: Release
    registered: Mapping[str, str]
    label: str
    exhibits: Mapping[str, Exhibit]
    verdicts: tuple[Judged, ...]
    ladder: Mapping[str, Any]
    load_test: Mapping[str, Any]
    versions: Mapping[str, str]
    late: Mapping[str, Mapping[str, Any]]
    head: Mapping[str, Any]
    at: str

    @property
    def subject(self) -> str:
        """What sentences call it."""
        return f"{self.release.model} version {self.release.version}"

    @property
    def digest(self) -> str:
        """Of the whole document."""
        return digest_of(json.dumps(self.body(), sort_keys=True, separators=(",", ":"), allow_nan=False))

    def sha256(self, name: str) -> str | None:
        """The digest of an exhibit; None where there is none of this name."""
        exhibit = self.exhibits.get(name)
        return exhibit.sha256 if exhibit else None

    def body(self) -> dict[str, Any]:
        """As JSON has it; numbers that are none are null."""
        return _plain(asdict(self))

    def file(self, folder: Path) -> Path:
        """Named after release and digest: a later one of the same release lies beside it."""
        return folder / _name(self.release.release_id, self.digest)

    def save(self, folder: Path) -> Path:
        """Write it beside the earlier ones. Returns the file."""
        folder.mkdir(parents=True, exist_ok=True)
        file = self.file(folder)
        file.write_text(json.dumps({**self.body(), "digest": self.digest}, indent=2) + "\n")
        return file

    @classmethod
    def load(cls, folder: Path, release: Release) -> "Dossier":
        """The one that the release's evidence names. Raises EvidenceMissing where it is gone or changed."""
        subject, wanted = f"{release.model} version {release.version}", release.evidence.get("dossier", "")
        file = folder / _name(release.release_id, wanted)
        try:
            found = json.loads(file.read_text())
            made = cls._from_dict({name: found[name] for name in found if name != "digest"})
        except OSError as error:
            raise EvidenceMissing(subject, f"its dossier {file} is gone") from error
        except (ValueError, TypeError, KeyError) as error:
            raise EvidenceMissing(subject, f"its dossier {file} is damaged") from error
        if made.digest != wanted:
            raise EvidenceMissing(subject, f"its dossier {file} was changed after it was written")
        return made

    @classmethod
    def _from_dict(cls, found: Mapping[str, Any]) -> "Dossier":
        exhibits = {name: Exhibit(**each) for name, each in found["exhibits"].items()}
        verdicts = tuple(Judged(v["asset"], Verdict.from_dict(v["verdict"])) for v in found["verdicts"])
        release = Release.from_dict(found["release"])
        return cls(**{**found, "release": release, "exhibits": exhibits, "verdicts": verdicts})

    def judged(self) -> Release:
        """The release, with what the ledger has to keep of this: its digest, what is served, and the digests
        of what the model can't be asked without, such as a tokenizer."""
        served = [asdict(self.exhibits[name]) for name in SERVED if name in self.exhibits]
        whys = {each.verdict.gate: each.verdict.why for each in self.verdicts}
        model = self.sha256(f"release_model/{MODEL_FILE}")
        evidence = {
            **self.release.evidence,
            "dossier": self.digest,
            "model_sha256": model,
            "served": served,
            **whys,
        }
        return replace(self.release, evidence=evidence)


def _name(release_id: str, digest: str) -> str:
    return f"{release_id}.{digest[:12]}.json"


def _plain(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
