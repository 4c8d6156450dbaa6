"""The registry door: MLflow and its double keep the same promises, and nothing is ever unpickled."""

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.errors import ModelNotFound, ModelRefused, RegistryUnreachable
from pipelines.gateways.registry import MlflowRegistry, Registry, Tensor
from tests.assets.kinds import word_tokenizer
from tests.bentos.serving import free_port
from tests.fakes.registry import FakeRegistry

INPUTS = (Tensor("a", "float32", (-1,)), Tensor("b", "int64", (-1,)))
OUTPUTS = (Tensor("sum", "float32", (-1,)),)
METADATA = {"categories": {"b": ["x", "y"]}, "open": ["b"]}


def log_net(registry: MlflowRegistry, name: str, tokenizer: Path | None = None) -> str:
    import torch

    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, a, b):
            return a * self.weight + b

    example = (np.zeros(2, np.float32), np.zeros(2, np.int64))
    return registry.log_torch(Sum(), name, INPUTS, OUTPUTS, example, METADATA, tokenizer)


@pytest.fixture(scope="module")
def sqlite_folder(tmp_path_factory) -> Path:
    """An MLflow database with one model of two versions, the second with a tokenizer, for all tests, since
    the first use takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow") / "new"
    registry = MlflowRegistry(f"sqlite:///{folder / 'mlflow.db'}")
    tokenizer = word_tokenizer(tmp_path_factory.mktemp("words") / "tokenizer.json")
    assert [log_net(registry, "sum"), log_net(registry, "sum", tokenizer)] == ["1", "2"]
    return folder


@pytest.fixture
def mlflow_registry(sqlite_folder) -> MlflowRegistry:
    return MlflowRegistry(f"sqlite:///{sqlite_folder / 'mlflow.db'}")


@pytest.fixture(params=["mlflow", "fake"])
def registry(request, tmp_path) -> Registry:
    """A registry with versions 1 and 2 of the model "sum"."""
    if request.param == "mlflow":
        return request.getfixturevalue("mlflow_registry")
    (tmp_path / "model.pt2").write_bytes(b"archive")
    fake = FakeRegistry()
    for tokenizer in (None, word_tokenizer(tmp_path / "tokenizer.json")):
        fake.add("sum", tmp_path / "model.pt2", INPUTS, OUTPUTS, "pt2", METADATA, tokenizer)
    return fake


def test_an_alias_points_to_the_version_it_was_set_to(registry):
    registry.set_alias("sum", "candidate", "1")
    assert registry.resolve("sum", "candidate") == "1"
    registry.set_alias("sum", "candidate", "2")
    assert registry.resolve("sum", "candidate") == "2"


def test_versions_are_listed_oldest_first(registry):
    assert registry.versions("sum") == ["1", "2"]
    assert registry.versions("nothing") == []


def test_a_version_is_fetched_with_its_signature_and_metadata(registry, tmp_path):
    model = registry.fetch("sum", "2", tmp_path / "into")
    assert (model.name, model.version, model.form) == ("sum", "2", "pt2")
    assert (model.inputs, model.outputs, model.metadata) == (INPUTS, OUTPUTS, METADATA)
    assert model.file.is_relative_to(tmp_path / "into") and model.file.stat().st_size > 0
    assert model.model_id != registry.fetch("sum", "1", tmp_path / "other").model_id


def test_a_tokenizer_comes_with_the_version_that_it_was_registered_with(registry, tmp_path):
    tokenizer = registry.fetch("sum", "2", tmp_path / "into").tokenizer
    assert tokenizer.is_relative_to(tmp_path / "into") and tokenizer.name == "tokenizer.json"
    assert tokenizer.read_text() == word_tokenizer(tmp_path / "again.json").read_text()
    assert registry.fetch("sum", "1", tmp_path / "other").tokenizer is None


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda r, into: r.resolve("nothing", "candidate"), "no nothing@candidate"),
        (lambda r, into: r.resolve("sum", "nobody"), "no sum@nobody"),
        (lambda r, into: r.fetch("sum", "9", into), "no sum version 9"),
        (lambda r, into: r.fetch("nothing", "1", into), "no nothing version 1"),
        (lambda r, into: r.set_alias("sum", "candidate", "9"), "no sum version 9"),
    ],
)
def test_what_is_missing_is_named(registry, tmp_path, ask: Callable, sentence):
    with pytest.raises(ModelNotFound, match=sentence):
        ask(registry, tmp_path / "into")


def test_the_fetched_archive_is_the_net_and_nothing_else_was_copied(mlflow_registry, tmp_path):
    import torch

    model = mlflow_registry.fetch("sum", "1", tmp_path)
    net = torch.export.load(model.file).module()
    assert net(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 1, 1])).tolist() == [2, 3, 4]
    assert {path.name for path in tmp_path.iterdir()} == {"MLmodel", "model.pt2"}


def test_artifacts_lie_beside_the_database(sqlite_folder):
    assert {path.name for path in sqlite_folder.iterdir()} == {"mlflow.db", "artifacts"}


def log(registry: MlflowRegistry, name: str, flavor: str, **options) -> None:
    """Register with MLflow itself, as a user might."""
    import mlflow

    mlflow.set_tracking_uri(registry.tracking_uri)
    with mlflow.start_run(experiment_id=registry._experiment(name)):
        getattr(mlflow, flavor).log_model(
            name="model", registered_model_name=name, pip_requirements=["numpy"], **options
        )


def tensor_signature():
    from pipelines.gateways.mlmodel import signature

    return signature([Tensor("x", "float32", (-1, 3))], [Tensor("y", "float32", (-1, 1))])


def linear():
    import torch

    return torch.nn.Linear(3, 1)


def test_an_onnx_model_is_fetched_with_its_weights(mlflow_registry, tmp_path):
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matmul",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1000])],
        [numpy_helper.from_array(np.ones((3, 1000), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    extra = [str(word_tokenizer(tmp_path / "tokenizer.json"))]
    log(mlflow_registry, "matmul", "onnx", onnx_model=model, signature=tensor_signature(), extra_files=extra)
    fetched = mlflow_registry.fetch("matmul", "1", tmp_path / "into")
    assert fetched.tokenizer and fetched.tokenizer.read_bytes() == Path(extra[0]).read_bytes()
    session = onnxruntime.InferenceSession(fetched.file, providers=["CPUExecutionProvider"])
    assert fetched.form == "onnx" and fetched.inputs == (Tensor("x", "float32", (-1, 3)),)
    assert session.run(None, {"x": np.ones((2, 3), np.float32)})[0][1, 999] == 3


def test_a_pickled_torch_model_is_refused_with_the_mend(mlflow_registry, tmp_path):
    pickled = {"serialization_format": "pickle", "signature": tensor_signature()}
    log(mlflow_registry, "pickled", "pytorch", pytorch_model=linear(), **pickled)
    with pytest.raises(ModelRefused, match=r"pickled pytorch model; .*mlflow.pytorch.log_model.*'pt2'"):
        mlflow_registry.fetch("pickled", "1", tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_of_another_flavor_is_refused_with_the_mend(mlflow_registry, tmp_path):
    import mlflow.pyfunc

    class Echo(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input

    log(mlflow_registry, "echo", "pyfunc", python_model=Echo(), signature=tensor_signature())
    with pytest.raises(ModelRefused, match=r"pickled python_function model; .*mlflow.onnx.log_model"):
        mlflow_registry.fetch("echo", "1", tmp_path)


def test_a_model_without_a_signature_is_refused_with_the_mend(mlflow_registry, tmp_path):
    log(mlflow_registry, "unsigned", "pytorch", pytorch_model=linear(), serialization_format="pickle")
    with pytest.raises(ModelRefused, match=r"no signature of tensors; .*ModelSignature\("):
        mlflow_registry.fetch("unsigned", "1", tmp_path)


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (self.path.write_text, ("exploded",))


def test_a_pickle_hidden_in_an_archive_is_refused_and_never_run(mlflow_registry, sqlite_folder, tmp_path):
    version = log_net(mlflow_registry, "trap")
    source = mlflow_registry._client.get_model_version_download_uri("trap", version)
    archive = Path(source) / "data" / "model.pt2"
    honest = Path(shutil.move(archive, tmp_path / "honest.pt2"))
    with zipfile.ZipFile(honest) as original, zipfile.ZipFile(archive, "w") as crafted:
        for name in original.namelist():
            hidden = "sample_inputs" in name
            crafted.writestr(name, pickle.dumps(Bomb(tmp_path / "bomb")) if hidden else original.read(name))
    with pytest.raises(ModelRefused, match="not plain tensors"):
        mlflow_registry.fetch("trap", version, tmp_path / "into")
    assert not (tmp_path / "bomb").exists()
    assert not (tmp_path / "into" / "model.pt2").exists()


def test_a_server_that_is_not_there_is_unreachable():
    registry = MlflowRegistry(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RegistryUnreachable, match=r"does not answer \(.*refused\); check MLFLOW"):
        registry.resolve("sum", "candidate")


def test_a_file_that_is_no_database_is_unreachable(tmp_path):
    (tmp_path / "mlflow.db").write_text("This is not a database, it only has its name. " * 100)
    with pytest.raises(RegistryUnreachable, match="file is not a database"):
        MlflowRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}").versions("sum")


def test_a_nonsensical_uri_is_unreachable():
    with pytest.raises(RegistryUnreachable, match="nonsense"):
        MlflowRegistry("nonsense").versions("sum")


def test_the_double_can_be_unreachable():
    fake = FakeRegistry()
    fake.reachable = False
    with pytest.raises(RegistryUnreachable):
        fake.versions("sum")


@contextlib.contextmanager
def mlflow_server(folder: Path):
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "served")]
    with (folder / "server.log").open("wb") as log_file:
        server = subprocess.Popen(command, stdout=log_file, stderr=log_file, start_new_session=True)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.2)  # nobody tells when a port begins to answer
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@pytest.mark.e2e
def test_a_server_keeps_the_same_promises(tmp_path):
    with mlflow_server(tmp_path) as uri:
        registry = MlflowRegistry(uri)
        version = log_net(registry, "sum")
        registry.set_alias("sum", "candidate", version)
        assert registry.resolve("sum", "candidate") == "1" and registry.versions("sum") == ["1"]
        model = registry.fetch("sum", "1", tmp_path / "into")
        with pytest.raises(ModelNotFound):
            registry.resolve("nothing", "candidate")
        with pytest.raises(ModelNotFound):
            registry.fetch("sum", "2", tmp_path / "into")
    assert (model.form, model.inputs, model.metadata) == ("pt2", INPUTS, METADATA)
