"""A release whose evidence is not complete, matching, passing and still there is refused, and says why."""

import errno
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from bentos.manifest import sha256
from pipelines.core.errors import EvidenceMissing
from pipelines.core.evidence import GATES, Finding, check_target, examine, verify
from pipelines.core.exhibits import Exhibit, below, keep, seal
from pipelines.core.home import Home
from pipelines.core.release import Release
from pipelines.core.verdict import Verdict, judge
from tests.core.releases import MODEL, dossier_of, make_release, record

IMAGE = f"localhost/churn@sha256:{'ab' * 32}"


def nothing(reference: str) -> None:
    """An engine without images."""


@pytest.fixture
def home(tmp_path):
    """Version 1, and version 2, which was compared with it."""
    made = Home(tmp_path)
    make_release(made, "1")
    make_release(made, "2", production="1")
    return made


def refusal(home: Home, production: str | None = "1", former: Release | None = None) -> str:
    """Why a deployment is refused now, by what was recorded on the way."""
    with pytest.raises(EvidenceMissing) as refused:
        verify(dossier_of(home), home.root, nothing, production, former)
    return str(refused.value)


def test_complete_evidence_holds(home):
    former = dossier_of(home, "1").judged()
    verify(dossier_of(home), home.root, nothing, "1", former)
    found = list(examine(dossier_of(home), home.root, nothing))
    assert all(each.holds for each in found)
    gates = {f"the gate {gate}" for of in GATES.values() for gate in of}
    assert {*gates, "the gate rollback_rehearsed", "holdout", "bento", "packed"} <= {e.what for e in found}


def _flip(path: str, home: Home) -> None:
    """One byte of a file is changed; its size and its times are put back."""
    file = next(home.root.glob(path))
    was, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


def _copied_verdict(home: Home) -> None:
    """Version 2 is given the evidence of version 1, and is sealed again."""
    folder = home.artifact(MODEL, "2", "load_test")
    shutil.copy(home.artifact(MODEL, "1", "load_test") / "within_slo.verdict.json", folder)
    (folder / "seal.json").unlink()
    seal(folder)


def _copied_parity(home: Home) -> None:
    shutil.copy(home.artifact(MODEL, "1", "onnx_model") / "parity.verdict.json", _of(home, "onnx_model"))
    record(_of(home, "onnx_model"), registered=_of(home, "registered_model") / "model.pt2")


def _rebuilt(home: Home) -> None:
    """The same bento, built at another time."""
    next(home.root.glob("bentoml/bentos/churn/v2-abc/bento.yaml")).write_text("creation_time: later")


def _added(home: Home) -> None:
    next(home.root.glob("bentoml/bentos/churn/v2-abc/src")).joinpath("sitecustomize.py").write_text("evil()")


def _other_model(home: Home) -> None:
    """Another rung than the one that won was packed, and its manifest says so."""
    folder = home.artifact(MODEL, "2", "bento")
    other = home.artifact(MODEL, "2", "fp32") / "model.onnx"
    manifest = json.loads((folder / "manifest.json").read_text()) | {"sha256": sha256(other)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shutil.copy(other, home.bentoml / "models" / MODEL / "v2-abc" / "model.onnx")


def _failed(home: Home) -> None:
    model = sha256(_of(home, "onnx_model") / "model.onnx")
    judge("parity", model, ["differs by 0.3"], "").save(_of(home, "onnx_model"))


def _thin(home: Home) -> None:
    model = sha256(_of(home, "onnx_model") / "model.onnx")
    Verdict("parity", "inconclusive", model, ("12 rows",)).save(_of(home, "onnx_model"))


def _never(home: Home) -> None:
    (_of(home, "load_test") / "no_leak.verdict.json").unlink()


def _drill_failed(home: Home) -> None:
    tag = json.loads((_of(home, "bento") / "bento.json").read_text())["tag"]
    judge("rollback_rehearsed", tag, ["3 of 80 requests failed"], "").save(_of(home, "drill"))


def _gone(home: Home) -> None:
    home.data("data/calibration.parquet").unlink()


def _of(home: Home, asset: str) -> Path:
    return home.artifact(MODEL, "2", asset)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_copied_verdict, "the verdict of within_slo is about another artifact"),
        (_copied_parity, "the verdict of parity is about another artifact"),
        (partial(_flip, "bentoml/models/churn/v2-abc/model.onnx"), "models/churn/v2-abc is not what it was"),
        (partial(_flip, "data/holdout.parquet"), "data/holdout.parquet is not what it was"),
        (partial(_flip, "data/reference.parquet"), "data/reference.parquet is not what it was"),
        (partial(_flip, "artifacts/churn/2/load_test/load.json"), "load_test/load.json is damaged"),
        (
            partial(_flip, "artifacts/churn/2/load_test/no_leak.verdict.json"),
            "2/load_test/no_leak.verdict.json is damaged",
        ),
        (
            partial(_flip, "artifacts/churn/2/onnx_model/model.onnx"),
            "onnx_model/model.onnx is not what it was",
        ),
        (
            partial(_flip, "artifacts/churn/1/release_model/model.onnx"),
            "1/release_model/model.onnx is not what",
        ),
        (partial(_flip, "artifacts/churn/2/load_test/samples.parquet"), "samples.parquet is not what it was"),
        (_rebuilt, "bentoml/bentos/churn/v2-abc is not what it was"),
        (_added, "bentoml/bentos/churn/v2-abc is not what it was"),
        (_other_model, "the model in its bento is not the one that was judged"),
        (_gone, "data/calibration.parquet is gone"),
        (_failed, "the gate parity says fail: differs by 0.3"),
        (_thin, "the gate parity says inconclusive: 12 rows"),
        (_never, "the gate no_leak was never judged"),
        (_drill_failed, "the gate rollback_rehearsed says fail: 3 of 80 requests failed"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_whatever_does_not_hold_is_refused_with_the_reason(home, damage, says):
    damage(home)
    sentence = refusal(home)
    assert sentence.startswith("churn version 2 is not deployed: ") and says in sentence


def test_a_comparison_with_a_former_production_is_not_enough(home):
    assert "not compared with version 7, which serves now" in refusal(home, production="7")
    assert "compared with a version that does not serve any more" in refusal(home, production=None)


def test_a_version_that_serves_was_compared_before_it_did(home):
    verify(dossier_of(home), home.root, nothing, "2", None)


def test_there_is_a_way_back_or_no_way_forward(home):
    former = dossier_of(home, "1").judged()
    _flip("bentoml/bentos/churn/v1-abc/src/service.py", home)
    says = (
        "churn version 2 is not deployed: there is no way back to version 1, for bentoml/bentos/churn/v1-abc"
    )
    assert f"{says} is not what it was" in refusal(home, former=former)
    shutil.rmtree(home.bentoml / "models" / MODEL / "v1-abc")
    shutil.rmtree(home.bentoml / "bentos" / MODEL / "v1-abc")
    assert f"{says} is gone" in refusal(home, former=former)
    with pytest.raises(EvidenceMissing, match="its ledger entry names no bento"):
        check_target(replace(former, evidence={}), home.root, nothing)


def test_an_image_is_there_with_the_digest_that_was_judged(home):
    made = dossier_of(home)
    there = replace(made, release=replace(made.release, image=IMAGE))
    verify(there, home.root, lambda reference: reference.partition("@")[2], "1", None)
    assert list(examine(there, home.root, nothing))[-1] == Finding("image", f"its image {IMAGE} is gone")
    with pytest.raises(EvidenceMissing, match=f"its image {IMAGE} is sha256:cd now"):
        verify(there, home.root, lambda reference: "sha256:cd", "1", None)
    former = replace(dossier_of(home, "1").judged(), image=IMAGE)
    with pytest.raises(EvidenceMissing, match=r"no way back to version 1, for its image .* is gone"):
        verify(made, home.root, nothing, "1", former)


def test_what_python_writes_when_it_serves_is_no_change(home):
    cache = home.bentoml / "bentos" / MODEL / "v2-abc" / "src" / "__pycache__"
    cache.mkdir()
    (cache / "service.cpython-311.pyc").write_bytes(b"code")
    verify(dossier_of(home), home.root, nothing, "1", None)


def test_evidence_that_is_changed_after_the_deployment_is_found_though_all_is_sealed_again(home):
    made, folder = dossier_of(home), _of(home, "load_test")
    judge("within_slo", made.release.tag, [], "p99 1 ms").save(folder)
    (folder / "seal.json").unlink()
    seal(folder)
    verify(dossier_of(home), home.root, nothing, "1", None)  # the records agree with each other …
    faults = [each.what for each in examine(made, home.root, nothing) if not each.holds]
    assert faults == [
        "load_test/seal.json",
        "load_test/within_slo.verdict.json",
    ]  # … but not with the dossier


def test_what_is_made_again_is_still_kept_as_it_was(home):
    made, folder, judged = dossier_of(home), home.evidence, _of(home, "load_test")
    keep(made.exhibits.values(), home.root, folder)
    keep(made.exhibits.values(), home.root, folder)
    shutil.copytree(judged, again := judged.with_name("again"))
    judge("within_slo", made.release.tag, [], "p99 1 ms").save(again)
    shutil.rmtree(judged)
    again.rename(judged)
    shutil.rmtree(home.bentoml)

    def told(name: str) -> tuple[bool, bool]:
        found = {each.what: each for each in examine(made, home.root, nothing, folder)}
        return found[name].holds, found[name].kept

    assert told("load_test/within_slo.verdict.json") == (True, True)
    assert told("holdout") == (True, False)
    assert told("bento") == told("packed") == (False, False), "what serves has to be there"
    (folder / made.exhibits["load_test/within_slo.verdict.json"].sha256).write_text("{}")
    assert told("load_test/within_slo.verdict.json") == (False, False)
    (folder / made.exhibits["holdout"].sha256).write_text("{}")
    assert told("holdout") == (False, False), "a link to the same bytes"
    home.data("data/holdout.parquet").unlink()
    home.data("data/holdout.parquet").write_text("holdout")
    keep(made.exhibits.values(), home.root, folder)
    assert made.exhibits["holdout"].kept(folder), "it is kept anew"


def test_what_cannot_be_linked_is_copied_below_the_home_only(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", _other_disk)
    (home := tmp_path / "home").mkdir()
    for file in (home / "inside", tmp_path / "outside"):
        file.write_text(file.name)
    inside, outside = (
        Exhibit(file.name, below(home, file), sha256(file))
        for file in (home / "inside", tmp_path / "outside")
    )
    keep((inside, outside), home, home / "evidence")
    (home / "inside").write_text("another")
    assert inside.kept(home / "evidence") and not outside.kept(home / "evidence")


def _other_disk(*_: object) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")
