"""The manifest travels unchanged, and a model file that is not the one it describes is refused."""

import pytest

from bentos.manifest import Manifest, ManifestMismatch, Plan, verified_model
from tests.bentos.tiny import packed


def test_survives_a_save(tmp_path):
    _, manifest = packed(tmp_path, plan=Plan(max_batch_size=16, max_latency_ms=250, threads=2))
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest


def test_verified_model_is_the_path(tmp_path):
    model, manifest = packed(tmp_path)
    assert verified_model(tmp_path, manifest) == model


def test_refuses_one_flipped_bit(tmp_path):
    model, manifest = packed(tmp_path)
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(ManifestMismatch, match="build again"):
        verified_model(tmp_path, manifest)
