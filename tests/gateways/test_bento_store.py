"""Bentos are built once, served from an environment of their own, and answer like the ONNX file.

What is asked of `store` holds for the fake and for the real one.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path

import httpx
import pytest

from bentos.engines.engine import Engine
from bentos.manifest import Manifest, ManifestMismatch, sha256
from bentos.schema import columns, predictions
from pipelines.core.errors import BuildFailed
from pipelines.core.home import Home
from pipelines.gateways.bento_store import BentoMLStore, BentoStore
from pipelines.gateways.environments import python_with
from pipelines.gateways.processes import Command
from tests.bentos.serving import free_port
from tests.bentos.tiny import CONTRACT, ROW, packed
from tests.fakes.bento_store import FakeBentoStore

PROJECT = Path(__file__).parents[2]
ROWS = [{**ROW, "hour": hour, "carrier": carrier} for hour in range(10) for carrier in ("UA", "AA")]


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> tuple[Path, Manifest]:
    return packed(tmp_path_factory.mktemp("release"), "v3@0A1b2c")


@pytest.fixture(scope="session")
def real(make_home) -> BentoMLStore:
    return BentoMLStore(Home(make_home()), PROJECT)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.e2e)])
def store(request, tmp_path) -> BentoStore:
    return FakeBentoStore(tmp_path) if request.param == "fake" else request.getfixturevalue("real")


@pytest.fixture
def empty(tmp_path) -> BentoMLStore:
    """A real store with nothing in it, over a project that may be spoiled."""
    shutil.copytree(PROJECT / "bentos", tmp_path / "project" / "bentos")
    shutil.copyfile(PROJECT / "bentofile.yaml", tmp_path / "project" / "bentofile.yaml")
    return BentoMLStore(Home(tmp_path / "home"), tmp_path / "project")


STOP_SECONDS = 20


@contextmanager
def serving(command: Command, port: int, log: Path) -> Iterator[httpx.Client]:
    """Run the command as the supervisor would, until the block ends."""
    env = {**{name: os.environ[name] for name in ("PATH", "HOME")}, **command.env}
    with log.open("w") as output:
        process = subprocess.Popen(command.argv, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            _wait_until_ready(client, process, log)
            yield client
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:  # a shell that ignores SIGTERM hands that on to what it starts
            process.kill()
            process.wait()


def _wait_until_ready(client: httpx.Client, process: subprocess.Popen, log: Path) -> None:
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)  # nobody tells when a port begins to answer
    pytest.fail(f"not ready: {log.read_text()}")


def answers(client: httpx.Client, rows: list[dict]) -> list[dict]:
    return client.post("/predict", json={"rows": rows}).raise_for_status().json()


def predictions_served(client: httpx.Client) -> int:
    name = r'seatrial_requests_total\{outcome="ok",way="predict"\} (.*)'
    return int(float(re.findall(name, client.get("/metrics").text)[0]))


def test_the_same_release_is_built_once(store, release):
    first, second = store.build(*release), store.build(*release)
    assert first == second
    assert first.tag.startswith("tiny:")
    assert first.model.read_bytes() == release[0].read_bytes()
    assert first.size_bytes >= first.model.stat().st_size
    assert first.path.is_dir()


def test_another_release_is_another_bento(store, release):
    model, manifest = release
    other = store.build(model, replace(manifest, release_id="v4-ffffff"))
    assert other.tag != store.build(*release).tag


def test_a_release_id_stands_for_one_model(store, release):
    model, manifest = release
    store.build(model, manifest)
    with pytest.raises(ManifestMismatch):
        store.build(model, replace(manifest, sha256="0" * 64))


def test_what_the_manifest_names_is_packed_beside_the_model(store, release, tmp_path):
    model, manifest = release
    beside = tmp_path / "release"
    beside.mkdir()
    shutil.copyfile(model, beside / "model.onnx")
    (beside / "tokenizer.json").write_text("{}")
    files = {"tokenizer.json": sha256(beside / "tokenizer.json")}
    named = replace(manifest, release_id="v5-7e47", files=files)
    packed = store.build(beside / "model.onnx", named).model
    assert packed.with_name("tokenizer.json").read_text() == "{}"
    assert Manifest.load(packed.parent) == named


@pytest.mark.e2e
def test_predictions_are_logged_below_the_home_where_that_is_asked_for(real, release):
    tag = real.build(*release).tag
    folder = real.home.root / "prediction_log" / "tiny"
    log = {"SEATRIAL_CAPTURE_FOLDER": str(folder), "SEATRIAL_CAPTURE_SECONDS": "10"}
    assert real.command(tag, 1, logged=True).env == real.command(tag, 1).env | log
    assert not log.items() & real.command(tag, 1).env.items()


def test_the_bento_answers_like_the_onnx_file(store, release, tmp_path):
    model, manifest = release
    port = free_port()
    command = store.command(store.build(model, manifest).tag, port)
    assert str(port) in command.argv
    expected = predictions(Engine(model, CONTRACT).predict(columns(CONTRACT, ROWS)))
    with serving(command, port, tmp_path / "service.log") as client:
        assert answers(client, ROWS) == expected
        assert [answers(client, [row])[0] for row in ROWS[:3]] == expected[:3]
        headers = client.get("/readyz").headers
    assert (headers["x-model-version"], headers["x-release-id"]) == ("3", "v3@0A1b2c")


@pytest.mark.e2e
def test_a_served_bento_keeps_the_contract(real, release, tmp_path):
    port = free_port()
    command = real.command(real.build(*release).tag, port)
    with serving(command, port, tmp_path / "service.log") as client:
        spoiled = {
            "carrier": {**ROW, "carrier": "ZZ"},
            "dep delay": {**ROW, "dep delay": "NaN"},
            "hour": {name: value for name, value in ROW.items() if name != "hour"},
            "surprise": {**ROW, "surprise": 1},
        }
        for field, row in spoiled.items():
            refused = client.post("/predict", json={"rows": [ROW, row]})
            assert refused.status_code == 400
            assert [error["loc"] for error in refused.json()["detail"]] == [["rows", 1, field]]
        schemas = client.get("/docs.json").json()["components"]["schemas"]
        assert schemas["Row"]["properties"]["carrier"]["enum"] == ["UA", "AA", "B6"]
        answer = client.post("/predict", json={"rows": [ROW]}, headers={"x-request-id": "order-17"})
        assert answer.headers["x-request-id"] == "order-17"


@pytest.mark.e2e
def test_services_keep_their_own_metrics(real, release, tmp_path):
    tag = real.build(*release).tag
    old, new = free_port(), free_port()
    with serving(real.command(tag, old), old, tmp_path / "old.log") as first:
        answers(first, [ROW])
        with serving(real.command(tag, new), new, tmp_path / "new.log") as second:
            assert [predictions_served(client) for client in (first, second)] == [1, 0]


@pytest.mark.e2e
def test_the_environment_holds_only_the_requirements(real, release):
    python = real.command(real.build(*release).tag, 1).argv[0]
    listed = subprocess.run(
        [
            python,
            "-Ic",
            "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"bentoml", "onnxruntime"} <= set(listed.stdout.split())
    assert not {"torch", "mlflow", "dagster", "pandas", "seatrial", "pip"} & set(listed.stdout.split())


@pytest.mark.e2e
def test_a_failed_build_leaves_nothing_and_says_why(empty, release):
    (empty.project / "bentos" / "service.py").write_text("raise ImportError('no such thing')\n")
    with pytest.raises(BuildFailed, match=r"Failed to load .*; the whole log is .*\.log"):
        empty.build(*release)
    (log,) = empty.home.bentoml.glob("logs/*.log")
    assert "no such thing" in log.read_text()
    assert not [*empty.home.bentoml.glob("bentos/*"), *empty.home.bentoml.glob("models/*")]
    assert not list(empty.home.bentoml.glob("building/*"))


@pytest.mark.e2e
def test_a_killed_build_is_built_anew(empty, release):
    left = empty.home.bentoml / "building" / "tiny-v3-0a1b2c" / "store" / "models" / "tiny" / "v3-0a1b2c"
    half = empty.home.bentoml / "models" / "tiny" / "v3-0a1b2c"
    for folder in (left, half):
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"half")
    assert empty.build(*release).model.read_bytes() == release[0].read_bytes()
    assert not left.exists()


@pytest.mark.e2e
def test_a_build_changes_nothing_outside_its_home(empty, release, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "user").mkdir()
    before = {each.name for each in distributions()}
    empty.build(*release)
    assert list((tmp_path / "user").iterdir()) == []
    assert {each.name for each in distributions()} == before
    requirements = empty.home.bentoml / "bentos/tiny/v3-0a1b2c/env/python/requirements.txt"
    assert not [line for line in requirements.read_text().splitlines() if line.startswith("-")]


def test_an_environment_is_made_once(tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# none\n")
    python = python_with(requirements, tmp_path / "environments")
    mark = python.parent / "mark"
    mark.touch()
    assert python_with(requirements, tmp_path / "environments") == python
    assert mark.exists()
    (python.parents[1] / ".complete").unlink()
    python_with(requirements, tmp_path / "environments")
    assert not mark.exists()


def test_an_environment_that_cannot_be_made_says_why(tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("./there-is-no-such.whl\n")
    with pytest.raises(BuildFailed, match=r"environment of the service .*there-is-no-such"):
        python_with(requirements, tmp_path / "environments")
    assert not list(tmp_path.rglob(".complete"))
