"""A release without complete, matching, passing evidence is refused, and the sentence says why."""

import pytest

from bentos.manifest import sha256
from pipelines.core.errors import EvidenceMissing
from pipelines.core.evidence import GATES, Subjects, verify_evidence
from pipelines.core.verdict import Verdict, judge


@pytest.fixture
def release(tmp_path):
    """Folders with complete evidence, the packed model, and what the evidence is about."""
    folders = {asset: tmp_path / asset for asset in GATES}
    for folder in folders.values():
        folder.mkdir()
    packed = tmp_path / "packed.onnx"
    for path in (folders["release_model"] / "model.onnx", packed):
        path.write_bytes(b"weights")
    subjects = Subjects(sha256(packed), "flight_delay:v2")
    for asset, gates in GATES.items():
        for gate in gates:
            judge(gate, subjects.of(asset) or "x", [], "fine", production_version="1").save(folders[asset])
    return folders, packed, subjects


def _verify(release, production="1"):
    folders, packed, subjects = release
    return verify_evidence("flight_delay version 2", folders, packed, subjects, production)


def test_complete_evidence_is_listed_by_gate(release):
    assert _verify(release) == {gate: "fine" for gates in GATES.values() for gate in gates}


def _gate_never_ran(folders, packed):
    (folders["load_test"] / "within_slo.verdict.json").unlink()


def _gate_failed(folders, packed):
    good = Verdict.load(folders["onnx_model"], "parity")
    judge("parity", good.subject, ["differs by 0.3"], "").save(folders["onnx_model"])


def _gate_inconclusive(folders, packed):
    Verdict("parity", "inconclusive", "x", ("12 rows",)).save(folders["onnx_model"])


def _about_another(folders, packed):
    judge("within_slo", "flight_delay:v1", [], "fine").save(folders["load_test"])


def _model_swapped(folders, packed):
    packed.write_bytes(b"weightz")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_gate_never_ran, "the gate within_slo was never judged"),
        (_gate_failed, "the gate parity says fail: differs by 0.3"),
        (_gate_inconclusive, "the gate parity says inconclusive: 12 rows"),
        (_about_another, "the verdict of within_slo is about another artifact"),
        (_model_swapped, "is not the one that was judged"),
    ],
)
def test_a_gap_in_the_evidence_is_refused(release, damage, says):
    damage(*release[:2])
    with pytest.raises(EvidenceMissing, match=says):
        _verify(release)


def test_a_comparison_with_a_former_production_is_not_enough(release):
    with pytest.raises(EvidenceMissing, match="not compared with version 7"):
        _verify(release, production="7")
