"""The BentoML service in process: real requests to its ASGI application, batched as on a port."""

import importlib
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bentos.engines.engine import Engine
from bentos.schema import columns, predictions
from tests.bentos.tiny import CONTRACT, ROW, packed

TAG = "tiny:v3-0a1b2c"
pytestmark = [  # BentoML's and Starlette's own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Using `httpx`"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A BENTOML_HOME for this process."""
    from bentoml._internal.configuration.containers import BentoMLContainer as Container

    home = tmp_path_factory.mktemp("bentoml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home))
        patch.setenv("BENTOML_DO_NOT_TRACK", "True")
        providers = (Container.bentoml_home, Container.model_store_dir, Container.model_store)
        for provider in providers:
            provider.reset()
        yield home
        for provider in providers:
            provider.reset()


@pytest.fixture(scope="module")
def model(home):
    """The tiny model in BentoML's store, with its manifest."""
    import bentoml

    with bentoml.models.create(TAG) as saved:
        path, manifest = packed(Path(saved.path))
        manifest.save(path.parent)
    return Path(bentoml.models.get(TAG).path_of("model.onnx"))


@pytest.fixture(scope="module")
def client(model):
    """The service as `bentoml serve` loads it: its release by argument, its model from the store."""
    from bentoml._internal.utils.args import set_arguments
    from starlette.testclient import TestClient

    set_arguments({"release": TAG})
    service = importlib.import_module("bentos.service")
    with TestClient(service.Predictor.to_asgi()) as client:
        yield client
    del sys.modules["bentos.service"]
    set_arguments({})


def expected(model, rows):
    return predictions(Engine(model, CONTRACT).predict(columns(CONTRACT, rows)))


def test_answers_like_the_engine_in_row_order(client, model):
    rows = [{**ROW, "hour": hour} for hour in range(24)]  # three times max_batch_size
    answer = client.post("/predict", json={"rows": rows})
    assert answer.status_code == 200
    assert answer.json() == expected(model, rows)


def test_a_bad_request_fails_alone(client, model):
    rows = [{**ROW, "hour": hour} for hour in range(20)]
    rows[7] = {**ROW, "hour": 99}
    with ThreadPoolExecutor(len(rows)) as pool:
        answers = list(pool.map(lambda row: client.post("/predict", json={"rows": [row]}), rows))
    assert [answer.status_code for answer in answers] == [200] * 7 + [400] + [200] * 12
    good = [(row, answer) for row, answer in zip(rows, answers, strict=True) if row["hour"] != 99]
    assert [answer.json() for _, answer in good] == [expected(model, [row]) for row, _ in good]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        pytest.param({"rows": [{**ROW, "carrier": "ZZ"}]}, ["rows", 0, "carrier"], id="unknown category"),
        pytest.param({"rows": [{**ROW, "dep delay": "NaN"}]}, ["rows", 0, "dep delay"], id="a NaN string"),
        pytest.param({"rows": [{"carrier": "AA"}]}, ["rows", 0, "origin"], id="missing field"),
        pytest.param({"rows": [{**ROW, "extra": 1}]}, ["rows", 0, "extra"], id="extra field"),
        pytest.param({"rows": []}, ["rows"], id="no rows"),
        pytest.param({"rows": [ROW], "more": 1}, ["more"], id="extra key"),
        pytest.param({}, ["rows"], id="no body"),
    ],
)
def test_refuses_with_the_field_named(client, body, where, caplog):
    answer = client.post("/predict", json=body)
    assert answer.status_code == 400
    assert where in [error["loc"] for error in answer.json()["detail"]]
    assert caplog.text == ""


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_refuses_numbers_that_json_cannot_hold(client, number):
    body = json.dumps({"rows": [ROW]}).replace("3.5", number)
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["detail"][0]["loc"] == ["rows", 0, "dep delay"]


def test_refuses_a_pickle(client):
    headers = {"content-type": "application/vnd.bentoml+pickle"}
    assert client.post("/predict", content=b"\x80\x04N.", headers=headers).status_code == 415


@pytest.mark.parametrize("path", ["/readyz", "/livez"])
def test_every_answer_names_the_release(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["x-model-version"] == "3"
    assert answer.headers["x-release-id"] == "v3-0a1b2c"
    assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("given", "kept"),
    [("order-17", True), ("x" * 128, True), ("x" * 129, False), ("has space", False)],
)
def test_request_ids_are_kept_when_they_are_plain(client, given, kept):
    answer = client.get("/readyz", headers={"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) is kept


def test_the_openapi_page_is_typed(client):
    schemas = client.get("/docs.json").json()["components"]["schemas"]
    row = schemas["Row"]
    assert row["required"] == list(ROW)
    assert row["properties"]["carrier"]["enum"] == ["UA", "AA", "B6"]
    assert (row["properties"]["hour"]["minimum"], row["properties"]["hour"]["maximum"]) == (0, 23)
    assert schemas["Request"]["properties"]["rows"]["items"] == {"$ref": "#/components/schemas/Row"}
    assert schemas["Prediction"]["properties"]["probability"]["type"] == "number"


def test_the_page_for_people_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "://" not in page.text
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(linked) == 2
    assert {client.get(f"/{path}").status_code for path in linked} == {200}
