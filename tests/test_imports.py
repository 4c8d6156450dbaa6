"""Scoring and serving import no torch: it need not be where they run, and no start waits for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from pipelines.core.entries import text_of
from tests.assets.world import MONTH, World, rows
from tests.bentos.tiny import ROW, packed

PROJECT = Path(__file__).parents[1]
ONLY_FOR_TRAINING_AND_RELEASE = {"torch", "onnx", "onnxscript", "mlflow"}

SCORING = """
import json, sys
from pathlib import Path
from pipelines.core.entries import entry_of
from tests.assets.world import MONTH, World
world = World(Path(sys.argv[1]))
world.ledger.entries = [entry_of(*kept) for kept in json.loads(sys.argv[2])]
assert world.run("tiny_scoring", MONTH).success
print(json.dumps([*sys.modules]))
"""

SERVING = """
import importlib, json, shutil, sys
class NoPandas:  # it is not where the service runs
    def find_spec(name, *_):
        if name == "pandas":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoPandas)
import bentoml
from bentoml._internal.utils.args import set_arguments
from starlette.testclient import TestClient
with bentoml.models.create("tiny:v3") as saved:
    shutil.copytree(sys.argv[1], saved.path, dirs_exist_ok=True)
set_arguments({"release": "tiny:v3"})
service = importlib.import_module("bentos.service")
with TestClient(service.Predictor.to_asgi()) as client:
    assert client.post("/predict", json={"rows": [json.loads(sys.argv[2])]}).status_code == 200
print(json.dumps([*sys.modules]))
"""


def imported_by(program: str, *arguments: str, **environment: str) -> set[str]:
    """The modules that a program of its own has imported by its end, which it prints on its last line."""
    found = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={**os.environ, **environment},
    )
    assert found.returncode == 0, found.stderr
    return {*json.loads(found.stdout.splitlines()[-1])}


def test_scoring_a_month_imports_no_torch(tmp_path):
    world = World(tmp_path)
    assert world.release().success
    world.write(f"data/scoring/{MONTH}.parquet", rows(7).drop(columns="y"))
    ledger = json.dumps([(text_of(entry), entry.digest) for entry in world.ledger.entries])
    modules = imported_by(SCORING, str(tmp_path), ledger)
    assert {"pipelines.core.scoring", "onnxruntime"} <= modules
    assert not ONLY_FOR_TRAINING_AND_RELEASE & modules


def test_answering_a_request_imports_no_torch(tmp_path):
    _, manifest = packed(tmp_path / "model")
    manifest.save(tmp_path / "model")
    home = {"BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    home["SEATRIAL_CAPTURE_FOLDER"] = str(tmp_path / "log")
    modules = imported_by(SERVING, str(tmp_path / "model"), json.dumps(ROW), **home)
    bentos = {f"bentos.{name}" for name in ("service", "engines.engine", "contract", "manifest")}
    assert {*bentos, "onnxruntime"} <= modules
    assert not {*ONLY_FOR_TRAINING_AND_RELEASE, "pipelines"} & modules
    assert len([*(tmp_path / "log").rglob("*.parquet")]) == 1
