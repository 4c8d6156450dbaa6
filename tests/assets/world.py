"""A whole installation in a folder: one tiny model, its data, and a fake at every door.

The jobs, the exported files, Great Expectations, Evidently and ONNX Runtime are real.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd

from pipelines.components import ServedModel
from pipelines.core.home import Home
from pipelines.gateways.registry import Tensor
from tests.fakes.bento_store import FakeBentoStore
from tests.fakes.client import FakeClient
from tests.fakes.containers import FakeContainers
from tests.fakes.deployments import FakeDeployments
from tests.fakes.ledger import FakeLedger
from tests.fakes.notebooks import FakeNotebooks
from tests.fakes.registry import FakeRegistry
from tests.fakes.traffic import FakeTraffic

CARRIERS = ["AA", "B6", "UA"]
INPUTS = (
    Tensor("carrier", "int64", (-1,)),
    Tensor("age", "float32", (-1,)),
    Tensor("delay", "float32", (-1,)),
)
OUTPUTS = (Tensor("probability", "float32", (-1,)),)
METADATA = {"categories": {"carrier": CARRIERS}, "open": []}
TRUTH = (0.5, 1.5, -1.0)
"""What carrier (by its code), age and delay weigh in the labels, and in a good model."""
MONTH = "2026-01"

SETTINGS = {
    "name": "tiny",
    "registry_uri": "models:/tiny@candidate",
    "ranges": {"age": [-10, 10]},
    "data": {
        "reference": "data/reference.parquet",
        "calibration": "data/calibration.parquet",
        "holdout": "data/holdout.parquet",
        "label": "y",
        "key": "id",
    },
    "gate": {"rungs": ["fp32"], "batch_sizes": [8], "min_rows": 200},
    "serving": {"path": "/tiny", "max_batch_size": 8, "expected_peak_rps": 50, "load_seconds": 2, "cores": 1},
    "scoring": {
        "input": "data/scoring/{month}.parquet",
        "labels": "data/labels/{month}.parquet",
        "start": "2026-01",
        "end": "2026-04",
    },
    "monitoring": {"min_rows": 200},
}


def rows(seed: int, count: int = 600, shift: float = 0.0) -> pd.DataFrame:
    """Labelled rows; `shift` moves the ages."""
    rng = np.random.default_rng(seed)
    codes, age = rng.integers(1, 4, count), rng.normal(shift, 1, count).clip(-10, 10)
    delay = rng.normal(0, 1, count)
    logit = np.stack([codes, age, delay], 1) @ TRUTH - 1
    return pd.DataFrame(
        {
            "id": np.arange(count),
            "carrier": np.array(CARRIERS)[codes - 1],
            "age": age.astype(np.float32),
            "delay": delay.astype(np.float32),
            "y": (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(np.int64),
        }
    )


def save_net(path: Path, weights: tuple[float, ...] = TRUTH) -> Path:
    """probability = sigmoid(weights · (carrier's code, age, delay) - 1), by a Gemm."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    names = [tensor.name for tensor in INPUTS]
    nodes = [helper.make_node("Cast", ["carrier"], ["code"], to=TensorProto.FLOAT)]
    for name in ("code", *names[1:]):
        nodes.append(helper.make_node("Unsqueeze", [name, "last"], [f"{name}_column"]))
    columns = [f"{name}_column" for name in ("code", *names[1:])]
    nodes += [
        helper.make_node("Concat", columns, ["x"], axis=1),
        helper.make_node("Gemm", ["x", "weights", "bias"], ["logit"]),
        helper.make_node("Squeeze", ["logit", "last"], ["flat"]),
        helper.make_node("Sigmoid", ["flat"], ["probability"]),
    ]
    constants = {
        "last": np.array([1], np.int64),
        "weights": np.array(weights, np.float32)[:, None],
        "bias": np.array([-1], np.float32),
    }
    values = {
        tensor.name: helper.make_tensor_value_info(
            tensor.name, helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), ["rows"]
        )
        for tensor in (*INPUTS, *OUTPUTS)
    }
    graph = helper.make_graph(
        nodes,
        "net",
        [values[name] for name in names],
        [values["probability"]],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@dataclass(frozen=True)
class Outcome:
    """What came of a run: the assets that were materialized, the checks by name, and why it failed."""

    success: bool
    made: list[str]
    checks: dict[str, dg.AssetCheckEvaluation]
    failure: str

    @classmethod
    def of(cls, result: dg.ExecuteInProcessResult) -> "Outcome":
        made = [event.asset_key.path[-1] for event in result.get_asset_materialization_events()]
        checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
        errors = [e.step_failure_data.error for e in result.all_events if e.is_step_failure]
        causes = [(error.cause or error).message.strip() for error in errors if error]
        return cls(result.success, made, checks, "\n".join(causes))

    def says(self, check: str) -> str:
        return str(self.checks[check].description)


@dataclass
class World:
    """The installation. Change a door or the settings before the first run."""

    root: Path
    settings: dict = field(default_factory=lambda: json.loads(json.dumps(SETTINGS)))
    traffic: FakeTraffic = field(default_factory=FakeTraffic)
    rows: Callable[[int], pd.DataFrame] = rows

    def __post_init__(self) -> None:
        self.home = Home(self.root / "home")
        self.registry, self.ledger, self.notebooks = FakeRegistry(), FakeLedger(), FakeNotebooks()
        self.bentos = FakeBentoStore(self.root / "bentos")
        self.deployments = FakeDeployments(self.ledger)
        self.containers = FakeContainers(self.bentos)
        self.client = FakeClient(self.bentos)
        self.instance = dg.DagsterInstance.ephemeral()
        for seed, name in enumerate(("reference", "calibration", "holdout")):
            self.write(f"data/{name}.parquet", self.rows(seed))

    @cached_property
    def definitions(self) -> dg.Definitions:
        component = ServedModel(**self.settings)
        made = component.build_defs(dg.ComponentTree.for_test().load_context)
        doors = (
            "home", "registry", "bentos", "ledger", "deployments", "containers", "client", "traffic",
            "notebooks",
        )  # fmt: skip
        return dg.Definitions.merge(
            made, dg.Definitions(resources={door: getattr(self, door) for door in doors})
        )

    def write(self, path: str, frame: pd.DataFrame) -> Path:
        target = self.home.data(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(target, index=False)
        return target

    def register(self, weights: tuple[float, ...] = TRUTH) -> str:
        """Register a net as the next version."""
        file = save_net(self.root / "net.onnx", weights)
        kept = file.rename(self.root / f"net-{len(self.registry.versions('tiny'))}.onnx")
        return self.registry.add("tiny", kept, INPUTS, OUTPUTS, metadata=METADATA)

    def run(self, job: str, partition: str, *only: str) -> Outcome:
        """Run the job of one partition, or only some of its assets."""
        if job == "tiny_release":
            self.instance.add_dynamic_partitions("tiny_versions", [partition])
        return Outcome.of(
            self.definitions.resolve_job_def(job).execute_in_process(
                instance=self.instance,
                partition_key=partition,
                raise_on_error=False,
                asset_selection=[dg.AssetKey(["tiny", asset]) for asset in only] or None,
            )
        )

    def release(self, weights: tuple[float, ...] = TRUTH) -> Outcome:
        """Register a net and run its release."""
        return self.run("tiny_release", self.register(weights))

    def artifact(self, version: str, asset: str) -> Path:
        return self.home.artifact("tiny", version, asset)

    def left_behind(self) -> list[Path]:
        """Half-written files and folders."""
        return list(self.root.rglob(".*"))

    @property
    def serving(self) -> str | None:
        """The version in production by the ledger, if the routes and the registry agree."""
        entry = self.ledger.production("tiny")
        if entry is None:
            return None
        assert self.deployments.routes[entry.path] == entry.release_id
        assert self.registry.resolve("tiny", "champion") == entry.version
        return entry.version
