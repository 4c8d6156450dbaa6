"""A release as its assets leave it on disk, with evidence that holds: bytes in place of models and rows."""

import json
import os
import shutil
from functools import cache
from pathlib import Path

from bentos.contract import Contract, Field
from bentos.manifest import Manifest, sha256
from pipelines.core.capacity.proof import Load
from pipelines.core.contracts import save_contract
from pipelines.core.dossier import Dossier
from pipelines.core.evidence import GATES
from pipelines.core.exhibits import digest, seal
from pipelines.core.gathering import gather
from pipelines.core.home import Home
from pipelines.core.ladder import Ladder, RungReport
from pipelines.core.rollout.rehearsal import Drill, judge_drill
from pipelines.core.verdict import judge
from tests.core.loads import make_load

MODEL, AT = "churn", "2026-01-02T03:04:05.000+00:00"
CONTRACT = Contract((Field("age", "float32"),), (Field("p", "float32"),))
VERSIONS = {"python": "3.11.7", "onnxruntime": "1.31.1"}
DATA = ("reference", "calibration", "holdout")
RUNGS = ("fp32", "int8_static")


@cache
def load() -> Load:
    return make_load(production=False)[0]


def make_release(home: Home, version: str = "2", production: str | None = None) -> None:
    """Everything up to the load test and the drill. All versions share the data."""
    for name in DATA:
        _write(home.data(f"data/{name}.parquet"), name)
    tag, release_id = f"{MODEL}:v{version}-abc", f"v{version}-abc"
    folder = home.artifact(MODEL, version, "")
    registered = _registered(home, folder / "registered_model", version)
    exported = _write(folder / "onnx_model" / "model.onnx", f"exported {version}")
    judge("parity", sha256(exported), [], "answers alike", probability=1e-8).save(exported.parent)
    record(exported.parent, registered=registered, holdout=home.data("data/holdout.parquet"))
    for rung in RUNGS:
        model = _write(folder / rung / "model.onnx", f"{rung} {version}")
        record(model.parent, model=exported, **{name: home.data(f"data/{name}.parquet") for name in DATA[1:]})
    chosen = _release_model(home, folder, production)
    _bento(home, folder, Manifest(MODEL, version, release_id, RUNGS[1], sha256(chosen), CONTRACT), tag)
    (folder / "serving_plan").mkdir()
    judge("plan_keeps_promise", sha256(chosen), [], "one worker is enough").save(folder / "serving_plan")
    tested = folder / "load_test"
    tested.mkdir()
    load().save(tested)
    _write(tested / "samples.parquet", "samples")
    for gate in GATES["load_test"]:
        judge(gate, tag, [], "fine", p99_ms=3.5).save(tested)
    seal(tested)
    (folder / "drill").mkdir()
    drill = Drill(release_id, release_id, 80, 0, None, 0.04, 0.05, AT)
    drill.save(folder / "drill")
    judge_drill(drill, tag).save(folder / "drill")
    seal(folder / "drill")


def dossier_of(home: Home, version: str = "2", head: tuple[int, str] = (0, "0" * 64)) -> Dossier:
    return gather(
        home,
        MODEL,
        version,
        head,
        AT,
        path="/churn",
        registered=MODEL,
        in_container=(home.artifact(MODEL, version, "image")).exists(),
    )


def record(folder: Path, **inputs: Path) -> None:
    """how.json, as a step leaves it."""
    read = {
        name: {
            "path": os.path.relpath(path, folder),
            "sha256": {each.name: sha256(each) for each in path.iterdir()} if path.is_dir() else sha256(path),
        }
        for name, path in inputs.items()
    }
    outputs = {path.name: sha256(path) for path in folder.iterdir() if path.name != "how.json"}
    made = {"inputs": read, "settings": {"label": "left"}, "outputs": outputs, "versions": VERSIONS}
    (folder / "how.json").write_text(json.dumps({"step": "any", **made}))


def _registered(home: Home, folder: Path, version: str) -> Path:
    file = _write(folder / "model.pt2", f"registered {version}")
    save_contract(CONTRACT, folder)
    fetched = {"uri": f"models:/{MODEL}/{version}", "model_id": f"m-{version}", "form": "pt2"}
    _write(folder / "fetched.json", json.dumps({**fetched, "file": file.name}))
    judge("contract_holds", sha256(file), [], "holds for all 300 rows", rows=300).save(folder)
    paths = {name: home.data(f"data/{name}.parquet") for name in DATA}
    seal(folder, {name: (path, sha256(path)) for name, path in paths.items()})
    return file


def _release_model(home: Home, folder: Path, production: str | None) -> Path:
    made = folder / "release_model"
    made.mkdir()
    chosen = Path(shutil.copy(folder / RUNGS[1] / "model.onnx", made))
    save_contract(CONTRACT, made)
    reports = tuple(
        RungReport(
            rung, True, "fine", "pass", rung == RUNGS[1], sha256(folder / rung / "model.onnx"),
            value=0.74, low=0.73, high=0.75, overall_speedup=1.5,
        )
        for rung in RUNGS
    )  # fmt: skip
    Ladder("auc", 300, [1, 8], RUNGS[1], reports).save(made / "ladder.json")
    for gate in GATES["release_model"]:
        judge(gate, sha256(chosen), [], "fine", production_version=production).save(made)
    before = {"production": home.artifact(MODEL, production, "release_model")} if production else {}
    rungs = {rung: folder / rung for rung in RUNGS}
    record(made, contract=folder / "registered_model" / "contract.json", **rungs, **before)
    return chosen


def _bento(home: Home, folder: Path, manifest: Manifest, tag: str) -> None:
    store = {kind: home.bentoml / kind / MODEL / manifest.release_id for kind in ("bentos", "models")}
    _write(store["bentos"] / "bento.yaml", f"creation_time: {manifest.version}")
    _write(store["bentos"] / "src" / "service.py", "serve()")
    packed = _write(store["models"] / "model.onnx", (folder / "release_model" / "model.onnx").read_text())
    (folder / "bento").mkdir()
    for place in (packed.parent, folder / "bento"):
        manifest.save(place)
    _write(folder / "bento" / "bento.json", json.dumps({"tag": tag, "model": str(packed)}))
    parts = {"bento": store["bentos"], "packed": store["models"]}
    seal(folder / "bento", {name: (path, digest(path)) for name, path in parts.items()})


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
