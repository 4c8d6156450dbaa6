"""The example's data and model: what leaks in, what stays equal, what the registry gets."""

import subprocess
import sys
from datetime import datetime

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from bentos.contract import encode
from pipelines.core.auc import auc_interval
from pipelines.core.home import Home
from pipelines.defs.flight_delay.data import (
    LABELLED_MONTHS,
    SCORED_MONTHS,
    data_path,
    flights,
    labels,
    months,
    splits,
)
from pipelines.defs.flight_delay.tables import CATEGORIES, FEATURES, KEY, LABEL, NUMERICS, SPLITS
from pipelines.defs.flight_delay.train import learned_contract, trained_model
from pipelines.gateways.registry import MlflowRegistry

ASSETS = [flights, splits, months, labels, trained_model]


@pytest.fixture(scope="module")
def resources(tmp_path_factory) -> dict:
    home = Home(tmp_path_factory.mktemp("home"))
    return {"home": home, "registry": MlflowRegistry(f"sqlite:///{home.mlflow / 'mlflow.db'}")}


def materialize(resources: dict, *selection, partition_key: str | None = None) -> dict[str, dict]:
    """Materialize, and return each asset's metadata with its data version."""
    result = dg.materialize(ASSETS, selection=selection, resources=resources, partition_key=partition_key)
    facts = {}
    for event in result.get_asset_materialization_events():
        done = event.step_materialization_data.materialization
        values = {name: value.value for name, value in done.metadata.items()}
        facts[done.asset_key.path[-1]] = {**values, "version_of_data": done.tags["dagster/data_version"]}
    return facts


@pytest.fixture(scope="module")
def made(resources) -> dict[str, dict]:
    """All that the release of the example needs, made once."""
    return materialize(resources, flights, splits, trained_model)


@pytest.fixture
def home(resources, made) -> Home:
    return resources["home"]


def read(home: Home, name: str) -> pd.DataFrame:
    return pd.read_parquet(data_path(home, name))


def test_lineage_starts_at_the_data(resources):
    graph = dg.Definitions(assets=ASSETS, resources=resources).resolve_asset_graph()
    found = {
        key.to_user_string(): sorted(parent.to_user_string() for parent in graph.get(key).parent_keys)
        for key in graph.get_all_asset_keys()
    }
    assert found == {
        "flight_delay/flights": [],
        "flight_delay/splits": ["flight_delay/flights"],
        "flight_delay/months": ["flight_delay/flights"],
        "flight_delay/labels": ["flight_delay/flights"],
        "flight_delay/trained_model": ["flight_delay/splits"],
    }


def test_flights_are_those_that_arrived_without_a_gap(home, made):
    rows = read(home, "flights")
    assert made["flights"]["rows"] == len(rows) == 327_346
    assert not rows.isna().any().any() and rows[KEY].is_unique
    assert (rows[LABEL] == (rows["arr_delay"] > 15)).all()
    assert rows["sched_dep_minute"].between(0, 1439).all() and set(rows["weekday"]) == set(range(7))


def test_splits_are_disjoint_labelled_and_from_january_to_march(home):
    month = read(home, "flights").set_index(KEY)["month"]
    parts = {name: read(home, name) for name in SPLITS}
    keys = pd.concat([part[KEY] for part in parts.values()])
    assert keys.is_unique and set(keys) == set(month.index[month <= 3])
    for name, part in parts.items():
        assert list(part.columns) == [KEY, *FEATURES, LABEL]
        assert len(part) / len(keys) == pytest.approx(SPLITS[name], abs=1e-4)
        assert part[LABEL].dtype == part[KEY].dtype == part["weekday"].dtype == np.int64
        assert set(part[NUMERICS].dtypes) == {np.dtype("float32")}


def test_a_scored_month_knows_nothing_of_its_labels(home, resources):
    fact = materialize(resources, months, partition_key="2013-04")["months"]
    rows = read(home, "scoring/2013-04")
    assert list(rows.columns) == [KEY, *FEATURES] and len(rows) == fact["rows"] == 27_564
    assert "late_share" not in fact


@pytest.mark.parametrize("month", ["2013-04", "2013-12"])
def test_labels_are_the_truth_about_the_scored_month(home, resources, month):
    materialize(resources, labels, partition_key=month)
    found = read(home, f"labels/{month}")
    truth = read(home, "flights").query(f"month == {int(month[-2:])}")
    assert list(found.columns) == [KEY, LABEL]
    assert found.set_index(KEY)[LABEL].equals(truth.set_index(KEY)[LABEL])


def test_labels_arrive_a_month_after_the_rows():
    august = datetime(2013, 8, 15)
    assert SCORED_MONTHS.get_partition_keys(august) == ["2013-04", "2013-05", "2013-06", "2013-07"]
    assert LABELLED_MONTHS.get_partition_keys(august) == ["2013-04", "2013-05", "2013-06"]
    assert LABELLED_MONTHS.get_partition_keys() == SCORED_MONTHS.get_partition_keys()
    assert SCORED_MONTHS.get_partition_keys()[-1] == "2013-12"


def test_the_same_input_gives_the_same_data_and_weights(made, resources):
    again = materialize(resources, flights, splits, trained_model)
    for asset in ("flights", "splits", "trained_model"):
        assert again[asset]["version_of_data"] == made[asset]["version_of_data"]


@pytest.fixture(scope="module")
def registered(made, resources, tmp_path_factory):
    registry = resources["registry"]
    assert registry.resolve("flight_delay", "candidate") in registry.versions("flight_delay")
    return registry.fetch("flight_delay", made["trained_model"]["version"], tmp_path_factory.mktemp("model"))


def test_the_registered_model_says_how_strings_become_codes(registered, home):
    assert [tensor.name for tensor in registered.inputs] == FEATURES
    assert {tensor.shape for tensor in registered.inputs} == {(-1,)}
    assert [(tensor.name, tensor.dtype) for tensor in registered.outputs] == [("probability", "float32")]
    vocabulary = {name: sorted(set(read(home, "reference")[name])) for name in CATEGORIES}
    assert registered.metadata == {"categories": vocabulary, "open": CATEGORIES}


def test_the_net_ranks_unseen_flights_and_exports_with_any_batch(registered, home, tmp_path):
    import onnxruntime
    import torch

    program = torch.export.load(registered.file)
    torch.onnx.export(program, (), input_names=FEATURES, output_names=["probability"], dynamo=True).save(
        tmp_path / "model.onnx", external_data=False
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    rows = read(home, "holdout")
    rows.loc[rows.index[0], CATEGORIES] = "never seen"
    feeds = encode(
        learned_contract(read(home, "reference")), {name: rows[name].to_numpy() for name in FEATURES}
    )
    net = program.module()
    for size in (1, 2, 7, 1000, len(rows)):
        batch = {name: values[:size] for name, values in feeds.items()}
        [found] = session.run(["probability"], batch)
        expected = net(*map(torch.from_numpy, batch.values())).detach().numpy()
        assert found.shape == (size,) and np.abs(found - expected).max() < 1e-6
    assert auc_interval(rows[LABEL].to_numpy(), found, 0.95)[0] > 0.7


def test_looking_at_the_assets_loads_no_heavy_library():
    program = (
        "import sys, pipelines.defs.flight_delay.train; "
        "print(sorted({'torch', 'mlflow', 'onnxruntime'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
