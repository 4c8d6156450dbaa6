"""The image of a release: built from its bento after its load test, described, and held back if unsound."""

import json
from pathlib import Path

import dagster as dg
import pytest

from pipelines.assets.common import Chapter
from pipelines.assets.image import IMAGE_FILE, image
from pipelines.assets.package import BENTO_FILE
from pipelines.core.exhibits import collect
from pipelines.core.home import Home
from pipelines.core.spec import ModelSpec
from pipelines.core.verdict import Verdict
from pipelines.gateways.containers import BILL_FILE
from tests.assets.world import SETTINGS
from tests.bentos.tiny import packed
from tests.core.loads import make_load
from tests.fakes.bento_store import FakeBentoStore
from tests.fakes.containers import FakeContainers


def chapter(**serving) -> Chapter:
    return Chapter(ModelSpec(**{**SETTINGS, "serving": {**SETTINGS["serving"], **serving}}))


def build(folder: Path, **serving) -> tuple[dg.ExecuteInProcessResult, Path]:
    """Materialize the image of a bento that was put under load; the asset's folder comes with the result."""
    made, home, bentos = (
        chapter(runtime="container", **serving),
        Home(folder),
        FakeBentoStore(folder / "bentos"),
    )
    model, manifest = packed(folder / "release")
    bento, load = (made.of_version(home, asset, "3") for asset in ("bento", "load_test"))
    for each in (bento, load):
        each.mkdir(parents=True)
    manifest.save(bento)
    (bento / BENTO_FILE).write_text(json.dumps({"tag": bentos.build(model, manifest).tag}))
    make_load(production=False, seconds=0.05)[0].save(load)
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("tiny_versions", ["3"])
    result = dg.materialize(
        image(made),
        partition_key="3",
        instance=instance,
        resources={"home": home, "containers": FakeContainers(bentos)},
        raise_on_error=False,
    )
    return result, made.of_version(home, "image", "3")


def test_there_is_no_image_where_the_service_runs_as_processes():
    assert image(chapter()) == []


def test_an_image_is_described_and_judged(tmp_path):
    result, folder = build(tmp_path)
    described, verdict = json.loads((folder / IMAGE_FILE).read_text()), Verdict.load(folder, "image_is_sound")
    assert result.success
    assert verdict.passed
    assert verdict.subject == described["reference"]
    assert described["reference"].endswith(f"@{described['digest']}")
    assert described["limits"]["memory_mib"] == 512, "twice what the load test measured, as a power of two"
    assert described["facts"]["uid"] == 1034
    assert json.loads((folder / BILL_FILE).read_text())["bomFormat"] == "CycloneDX"
    assert {"image/image.json", "image/bom.json"} <= collect("tiny", tmp_path, [folder]).keys()
    (check,) = result.get_asset_check_evaluations()
    assert check.passed


def test_the_settings_say_how_much_memory_there_is(tmp_path):
    _, folder = build(tmp_path, memory_megabytes=300)
    assert json.loads((folder / IMAGE_FILE).read_text())["limits"]["memory_mib"] == 300


def test_an_unsound_image_is_held_back(tmp_path):
    result, folder = build(tmp_path, max_image_megabytes=1e-6)
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert "more than serving.max_image_megabytes" in Verdict.load(folder, "image_is_sound").why


def test_containers_have_no_gpu():
    with pytest.raises(ValueError, match="runtime: container serves from the CPU, so set device: cpu"):
        chapter(runtime="container", device="cuda")
