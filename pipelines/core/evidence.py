"""The evidence of a release, read again before it may serve: complete, passing, and about this very artifact.

Blocking checks hold only inside one run of the graph; whatever starts a deployment, this must hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bentos.manifest import MODEL_FILE, sha256
from pipelines.core.errors import EvidenceMissing
from pipelines.core.verdict import Verdict

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
}
"""The gates of each asset that a release must have passed."""


@dataclass(frozen=True)
class Subjects:
    """What a release consists of: the digest of its model and the tag of its bento."""

    model_sha256: str
    tag: str

    def of(self, asset: str) -> str | None:
        """What the verdicts of an asset must be about; None where it is an earlier form of the model."""
        return {"release_model": self.model_sha256, "load_test": self.tag}.get(asset)


def verify_evidence(
    release: str, folders: Mapping[str, Path], packed_model: Path, subjects: Subjects, production: str | None
) -> dict[str, str]:
    """Every gate's verdict as {gate: why}. Raises EvidenceMissing at the first that does not hold.

    `folders` maps each asset of GATES to its folder, `packed_model` is the ONNX file inside the bento, and
    `production` the version that serves now, which the comparison must have been with.
    """
    for name, path in {"chosen": folders["release_model"] / MODEL_FILE, "packed": packed_model}.items():
        if not path.exists() or sha256(path) != subjects.model_sha256:
            raise EvidenceMissing(release, f"the {name} model {path} is not the one that was judged")
    verdicts = [
        _passed(release, folders[asset], gate, subjects.of(asset))
        for asset, gates in GATES.items()
        for gate in gates
    ]
    compared = next(v for v in verdicts if v.gate == "accuracy_non_inferior_to_production")
    if compared.numbers.get("production_version") != production:
        raise EvidenceMissing(release, f"it was not compared with version {production}, which serves now")
    return {verdict.gate: verdict.why for verdict in verdicts}


def _passed(release: str, folder: Path, gate: str, subject: str | None) -> Verdict:
    try:
        verdict = Verdict.load(folder, gate)
    except FileNotFoundError as error:
        raise EvidenceMissing(release, f"the gate {gate} was never judged") from error
    if subject is not None and verdict.subject != subject:
        raise EvidenceMissing(release, f"the verdict of {gate} is about another artifact")
    if not verdict.passed:
        raise EvidenceMissing(release, f"the gate {gate} says {verdict.outcome}: {verdict.why}")
    return verdict
