"""The dossier: everything about a release in one document that nobody changes unseen."""

import json
import shutil

import pytest

from pipelines.core.dossier import Dossier
from pipelines.core.errors import EvidenceMissing
from pipelines.core.exhibits import seal
from pipelines.core.home import Home
from tests.core.releases import AT, DATA, MODEL, dossier_of, make_release


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path)
    make_release(made)
    return made


def test_it_names_everything_from_the_data_to_the_bento(home):
    found = dossier_of(home, head=(7, "ab" * 32)).body()
    assert found["release"]["release_id"] == "v2-abc" and found["release"]["rung"] == "int8_static"
    assert found["registered"] == {
        "uri": "models:/churn/2", "model_id": "m-2", "form": "pt2", "file": "model.pt2",
    }  # fmt: skip
    files = ("registered_model/model.pt2", "registered_model/contract.json", "onnx_model/model.onnx")
    ends = ("int8_static/model.onnx", "release_model/model.onnx", "packed/model.onnx", "bento", "packed")
    assert {*DATA, *files, *ends} <= found["exhibits"].keys() and found["label"] == "left"
    digests = {found["exhibits"][name]["sha256"] for name in ends[:3]}
    assert len(digests) == 1 and all(len(each["sha256"]) == 64 for each in found["exhibits"].values())
    assert not any(each["path"].startswith("/") for each in found["exhibits"].values())
    gates = {each["verdict"]["gate"]: each["verdict"]["numbers"] for each in found["verdicts"]}
    assert gates["within_slo"] == {"p99_ms": 3.5} and "plan_keeps_promise" in gates
    assert [rung["chosen"] for rung in found["ladder"]["rungs"]] == [False, True]
    assert found["load_test"]["p99_ms"] == 50 and found["load_test"]["knee_rps"] == 1700
    assert {"peak", "overload", "soak"} <= {stage["kind"] for stage in found["load_test"]["stages"]}
    assert found["late"]["drill"]["seconds_to_zero"] == 0.04 and found["versions"]["onnxruntime"]
    assert found["head"] == {"sequence": 7, "digest": "ab" * 32} and found["at"] == AT


def test_it_is_read_as_it_was_written_and_later_ones_lie_beside_it(home, tmp_path):
    first, second = dossier_of(home), dossier_of(home, head=(1, "cd" * 32))
    assert first.digest != second.digest == dossier_of(home, head=(1, "cd" * 32)).digest
    files = {each.save(tmp_path / "dossier") for each in (first, second)}
    assert len(files) == 2
    for each in (first, second):
        assert Dossier.load(tmp_path / "dossier", each.judged()) == each
    evidence = first.judged().evidence
    assert evidence["dossier"] == first.digest and evidence["within_slo"] == "fine"
    assert [each["name"] for each in evidence["served"]] == ["bento", "packed"]


def test_one_that_was_changed_is_not_the_one_that_the_ledger_names(home, tmp_path):
    made = dossier_of(home)
    file, release = made.save(tmp_path), made.judged()
    good = file.read_text()
    for bad, says in [
        (good.replace("0.74", "0.84"), "was changed after it was written"),
        (good.replace('"exhibits"', '"exhibit"'), "is damaged"),
        (good[:-9], "is damaged"),
    ]:
        file.write_text(bad)
        with pytest.raises(EvidenceMissing, match=rf"churn version 2 is not deployed: its dossier .* {says}"):
            Dossier.load(tmp_path, release)
    file.unlink()
    with pytest.raises(EvidenceMissing, match="is gone"):
        Dossier.load(tmp_path, release)


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("bento", "its bento is damaged .*manifest.json cannot be read"),
        ("bento/bento.json", "it has no bento/bento.json"),
        ("load_test", "it has no load_test/load.json|nothing is recorded of its load_test"),
        ("load_test/seal.json", "nothing is recorded of its load_test"),
        ("onnx_model", "nothing is recorded of its onnx_model"),
        ("drill/drill.json", "it has no drill/drill.json"),
    ],
)
def test_what_was_never_made_is_named(home, missing, says):
    path = home.artifact(MODEL, "2", missing)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(EvidenceMissing, match=says):
        dossier_of(home)


def test_records_that_disagree_about_a_file_are_named(home):
    """The holdout was replaced between its validation and the judgement, and all was sealed again."""
    folder = home.artifact(MODEL, "2", "registered_model")
    (folder / "seal.json").unlink()
    seal(folder, {"holdout": (home.data("data/holdout.parquet"), "12" * 32)})
    with pytest.raises(
        EvidenceMissing, match=r"onnx_model knows another data/holdout\.parquet than registered"
    ):
        dossier_of(home)


def test_numbers_that_are_none_are_null(home):
    folder = home.artifact(MODEL, "2", "load_test")
    found = json.loads((folder / "load.json").read_text())
    found["candidate"]["steps"][0]["stage"]["p50_ms"] = float("nan")
    (folder / "load.json").write_text(json.dumps(found))
    assert dossier_of(home).body()["load_test"]["stages"][0]["p50_ms"] is None
