"""A release whose files are not the ones that were judged never starts, and says so in one sentence."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bentos.contract import Contract, Field, Text
from bentos.engines.device import ModelUnusable, open_engine
from bentos.engines.engine import ContractMismatch, WarmUpFailed
from bentos.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
    ManifestMismatch,
    Plan,
    sha256,
    verified_model,
)
from tests.bentos.graphs import save_graph
from tests.bentos.tiny import CONTRACT, packed, save_model

TOKENIZER = "tokenizer.json"


def flip_bit(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << at % 8
    path.write_bytes(content)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_elsewhere(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.write_bytes(b"not what was packed")
    path.unlink()
    path.symlink_to(elsewhere)


def link_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "gone")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "truncated by half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "longer by a byte": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "first bit flipped": lambda path: flip_bit(path, 0),
    "last bit flipped": lambda path: flip_bit(path, path.stat().st_size - 1),
    "zeros of its size": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another model": lambda path: save_model(path, constant=1.0),
    "missing": Path.unlink,
    "a folder": replace_by_folder,
    "a link to another file": link_elsewhere,
    "a link to nothing": link_nowhere,
}


@pytest.fixture
def release(tmp_path) -> tuple[Path, Manifest]:
    """A folder with a model and a tokenizer, and the manifest of both."""
    folder = tmp_path / "release"
    _, manifest = packed(folder)
    (folder / TOKENIZER).write_text('{"version": "1.0"}')
    return folder, replace(manifest, files={TOKENIZER: sha256(folder / TOKENIZER)})


def test_an_untouched_release_is_accepted(release):
    folder, manifest = release
    manifest.save(folder)
    open_engine(verified_model(folder, Manifest.load(folder)), manifest.contract, manifest.plan)


@pytest.mark.parametrize("file", [MODEL_FILE, TOKENIZER])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_refuses_a_damaged_file(release, damage, file):
    folder, manifest = release
    damage(folder / file)
    said = rf"{file} (has SHA-256|lies outside) .*: build again\.$"
    with pytest.raises(ManifestMismatch, match=said) as told:
        verified_model(folder, manifest)
    assert "\n" not in str(told.value)


def test_refuses_every_flipped_bit(release):
    folder, manifest = release
    model = folder / MODEL_FILE
    for at in range(0, model.stat().st_size, 37):
        flip_bit(model, at)
        with pytest.raises(ManifestMismatch):
            verified_model(folder, manifest)
        flip_bit(model, at)
    assert verified_model(folder, manifest) == model


def test_refuses_files_that_changed_places(release):
    folder, manifest = release
    model, tokenizer = (folder / MODEL_FILE).read_bytes(), (folder / TOKENIZER).read_bytes()
    (folder / MODEL_FILE).write_bytes(tokenizer)
    (folder / TOKENIZER).write_bytes(model)
    with pytest.raises(ManifestMismatch):
        verified_model(folder, manifest)


def test_refuses_the_manifest_of_another_release(release, tmp_path):
    folder, manifest = release
    other = save_model(tmp_path / "other.onnx", constant=1.0)
    with pytest.raises(ManifestMismatch, match=MODEL_FILE):
        verified_model(folder, replace(manifest, sha256=sha256(other)))


def test_refuses_a_model_of_another_contract(release):
    folder, manifest = release
    other = Contract((Field("x", "float32"),), CONTRACT.outputs)
    with pytest.raises(ContractMismatch, match="export the model again"):
        open_engine(verified_model(folder, manifest), other, manifest.plan)


@pytest.mark.parametrize("plan", [Plan(), Plan(padded_batch_sizes=(4,))], ids=["plain", "bound"])
@pytest.mark.parametrize("keep", [0, 1, 20, 200])
def test_a_file_that_was_packed_broken_ends_in_one_sentence(tmp_path, keep, plan):
    """Its digest is right: it was damaged before it was judged by anyone."""
    model, manifest = packed(tmp_path)
    model.write_bytes(model.read_bytes()[:keep])
    manifest = replace(manifest, sha256=sha256(model))
    with pytest.raises(ModelUnusable, match=r"^ONNX Runtime cannot load model\.onnx: .*again\.$") as told:
        open_engine(verified_model(tmp_path, manifest), manifest.contract, plan)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("plan", [Plan(), Plan(padded_batch_sizes=(4,))], ids=["plain", "bound"])
def test_a_model_that_raises_on_every_batch_does_not_start(tmp_path, plan):
    wrong = "where = Constant<value_ints = [99]>() y = Gather(x, where)"
    engine = open_engine(*save_graph(tmp_path / "m", wrong), plan)
    with pytest.raises(WarmUpFailed, match=r"The model cannot run a batch of . rows") as told:
        engine.warm_up(plan)
    assert "\n" not in str(told.value)


def test_refuses_a_file_that_lies_outside(release, tmp_path):
    """Its content is right today; what is linked may change after the check."""
    folder, manifest = release
    (folder / MODEL_FILE).rename(tmp_path / "moved.onnx")
    (folder / MODEL_FILE).symlink_to(tmp_path / "moved.onnx")
    with pytest.raises(ManifestMismatch, match=r"model\.onnx lies outside the release: build again"):
        verified_model(folder, manifest)


def test_refuses_a_name_that_leads_out(release, tmp_path):
    folder, manifest = release
    (tmp_path / TOKENIZER).write_bytes((folder / TOKENIZER).read_bytes())
    named = {f"../{TOKENIZER}": manifest.files[TOKENIZER]}
    with pytest.raises(ManifestMismatch, match="lies outside the release"):
        verified_model(folder, replace(manifest, files=named))


def test_refuses_a_tokenizer_without_a_digest(release):
    folder, manifest = release
    text = Text("text", TOKENIZER, 32, "ids")
    manifest = replace(manifest, contract=replace(CONTRACT, text=text), files={})
    with pytest.raises(ManifestMismatch, match=r"no digest of the tokenizer tokenizer\.json"):
        verified_model(folder, manifest)


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_refuses_a_truncated_manifest(release, keep):
    folder, manifest = release
    manifest.save(folder)
    (folder / MANIFEST_FILE).write_bytes((folder / MANIFEST_FILE).read_bytes()[:keep])
    with pytest.raises(ManifestMismatch, match=r"manifest\.json is damaged or of another version: build"):
        Manifest.load(folder)


@pytest.mark.parametrize("path", [("plan",), ("contract", "inputs"), ("sha256",), ("slo",)])
@pytest.mark.parametrize("value", [None, 5, [1], {"unknown": 1}])
def test_refuses_a_manifest_of_another_version(release, path, value):
    folder, manifest = release
    manifest.save(folder)
    fields = json.loads((folder / MANIFEST_FILE).read_text())
    inner = fields
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    (folder / MANIFEST_FILE).write_text(json.dumps(fields))
    with pytest.raises(ManifestMismatch):
        verified_model(folder, Manifest.load(folder))


def test_refuses_a_missing_manifest(tmp_path):
    with pytest.raises(ManifestMismatch, match=r"manifest\.json cannot be read"):
        Manifest.load(tmp_path)
