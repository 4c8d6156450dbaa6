"""The Open Inference Protocol as its own clients speak it: tritonclient, unchanged, and BentoML's
asynchronous client beside it, against `bentoml serve` of a model with several inputs and outputs."""

import asyncio
import queue

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from bentos.contract import Contract, Field
from bentos.manifest import MODEL_FILE, Manifest, Plan, sha256
from tests.bentos.serving import Served, free_port, metric, serving

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # tritonclient's own
]

CONTRACT = Contract(
    (Field("vector", "float32", (-1, 3)), Field("kind", "int64", categories=("a", "b"), open=True)),
    (Field("total", "float32"), Field("doubled", "float32", (-1, 3)), Field("code", "int64")),
)
GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[rows, 3] vector, int64[rows] kind) => (float[rows] total, float[rows, 3] doubled, int64[rows] code) {
    at = Constant<value_ints = [1]>()
    total = ReduceSum<keepdims = 0>(vector, at)
    doubled = Add(vector, vector)
    code = Identity(kind)
}
"""
VECTORS, KINDS = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(["b", "?"], object)
EXPECTED = {"total": VECTORS.sum(axis=1), "doubled": 2 * VECTORS, "code": np.array([2, 0])}


@pytest.fixture(scope="module")
def grpc_port():
    return free_port()


@pytest.fixture(scope="module")
def served(tmp_path_factory, grpc_port):
    from onnx import parser, save

    folder = tmp_path_factory.mktemp("triton")
    packed = folder / "v1"
    packed.mkdir()
    save(parser.parse_model(GRAPH), packed / MODEL_FILE)
    plan = Plan(max_batch_size=16, max_request_rows=64, max_body_bytes=100_000)
    Manifest("several outputs", "1", "v1-abc", "fp32", sha256(packed / MODEL_FILE), CONTRACT, plan).save(
        packed
    )
    with serving(folder, packed, SEATRIAL_GRPC_PORT=str(grpc_port)) as served:
        yield served


@pytest.fixture(params=["http", "grpc"])
def triton(request):
    return {"http": triton_http, "grpc": triton_grpc}[request.param]


@pytest.fixture
def client(triton, served: Served, grpc_port):
    port = served.port if triton is triton_http else grpc_port
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client


def inputs(triton, rows: int = 2, **options):
    vectors, kinds = np.resize(VECTORS, (rows, 3)), np.resize(KINDS, rows)
    vector, kind = triton.InferInput("vector", [rows, 3], "FP32"), triton.InferInput("kind", [rows], "BYTES")
    return [vector.set_data_from_numpy(vectors, **options), kind.set_data_from_numpy(kinds, **options)]


def check(answer, rows: int = 2) -> None:
    for name, expected in EXPECTED.items():
        np.testing.assert_array_equal(answer.as_numpy(name), np.resize(expected, (rows, *expected.shape[1:])))


def test_health_and_metadata(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("several outputs") and client.is_model_ready("several outputs", "1")
    assert not client.is_model_ready("several outputs", "2") and not client.is_model_ready("other")


def test_metadata_names_every_tensor(client):
    said = client.get_model_metadata("several outputs", "1")
    said = (
        said
        if isinstance(said, dict)
        else {name: getattr(said, name) for name in ("name", "inputs", "outputs")}
    )
    tensors = [
        (tensor["name"], tensor["datatype"], tensor["shape"])
        if isinstance(tensor, dict)
        else (tensor.name, tensor.datatype, list(tensor.shape))
        for tensor in (*said["inputs"], *said["outputs"])
    ]
    assert said["name"] == "several outputs"
    assert tensors == [
        ("vector", "FP32", [-1, 3]),
        ("kind", "BYTES", [-1]),
        ("total", "FP32", [-1]),
        ("doubled", "FP32", [-1, 3]),
        ("code", "INT64", [-1]),
    ]


def test_all_outputs_come_where_none_is_named(triton, client):
    check(client.infer("several outputs", inputs(triton), model_version="1"))


def test_only_the_outputs_that_are_asked_for(triton, client):
    wanted = [triton.InferRequestedOutput(name) for name in ("code", "total")]
    answer = client.infer("several outputs", inputs(triton), outputs=wanted, request_id="r-7")
    np.testing.assert_array_equal(answer.as_numpy("code"), EXPECTED["code"])
    np.testing.assert_array_equal(answer.as_numpy("total"), EXPECTED["total"])
    assert answer.as_numpy("doubled") is None
    said = answer.get_response()
    assert (said["id"] if isinstance(said, dict) else said.id) == "r-7"


@pytest.mark.parametrize("sent", [True, False], ids=["bytes in", "JSON in"])
@pytest.mark.parametrize("wanted", [True, False], ids=["bytes out", "JSON out"])
def test_json_and_bytes_in_any_combination(served: Served, sent, wanted):
    with triton_http.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        outputs = [triton_http.InferRequestedOutput(name, binary_data=wanted) for name in EXPECTED]
        check(client.infer("several outputs", inputs(triton_http, binary_data=sent), outputs=outputs))


@pytest.mark.parametrize("name", ["gzip", "deflate"])
@pytest.mark.parametrize("back", [None, "gzip"])
def test_bodies_may_be_compressed(served: Served, name, back):
    with triton_http.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        options = {"request_compression_algorithm": name, "response_compression_algorithm": back}
        check(client.infer("several outputs", inputs(triton_http), **options))


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_messages_may_be_compressed(served: Served, grpc_port, name):
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        check(client.infer("several outputs", inputs(triton_grpc), compression_algorithm=name))


def test_many_requests_of_one_http_client_at_once(served: Served):
    with triton_http.InferenceServerClient(f"127.0.0.1:{served.port}", concurrency=8) as client:
        asked = {
            rows: client.async_infer("several outputs", inputs(triton_http, rows)) for rows in range(1, 40)
        }
        for rows, answer in asked.items():
            check(answer.get_result(), rows)


def test_many_requests_of_one_grpc_client_at_once(served: Served, grpc_port):
    back: queue.Queue = queue.Queue()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        for rows in range(1, 40):
            done = lambda result, error, rows=rows: back.put((rows, result, error))  # noqa: E731
            client.async_infer("several outputs", inputs(triton_grpc, rows), callback=done)
        for _ in range(1, 40):
            rows, answer, error = back.get(timeout=30)
            assert error is None
            check(answer, rows)


def test_a_stream_answers_in_order_and_survives_a_refusal(served: Served, grpc_port):
    back: queue.Queue = queue.Queue()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        client.start_stream(callback=lambda result, error: back.put((result, error)))
        for rows in (1, 2, 65, 3):  # 65 are too many
            client.async_stream_infer("several outputs", inputs(triton_grpc, rows), request_id=str(rows))
        came = [back.get(timeout=30) for _ in range(4)]
        client.stop_stream()
    for rows, (answer, error) in zip((1, 2, None, 3), came, strict=True):
        assert (error is None) == (rows is not None)
        if rows is not None:
            check(answer, rows)
            assert answer.get_response().id == str(rows)


@pytest.mark.parametrize(("model", "version"), [("other", ""), ("several outputs", "2")])
def test_another_model_is_not_found(triton, client, model, version):
    with pytest.raises(InferenceServerException) as raised:
        client.infer(model, inputs(triton), model_version=version)
    assert raised.value.status() in ("404", "StatusCode.NOT_FOUND")


def test_what_breaks_the_contract_is_refused_with_its_name(triton, client):
    wrong = triton.InferInput("vector", [2, 2], "FP32").set_data_from_numpy(VECTORS[:, :2].copy())
    with pytest.raises(InferenceServerException, match="vector") as raised:
        client.infer("several outputs", [wrong, inputs(triton)[1]])
    assert raised.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_too_many_rows_are_refused(triton, client):
    with pytest.raises(InferenceServerException, match="65 is over the limit of 64") as raised:
        client.infer("several outputs", inputs(triton, 65))
    assert raised.value.status() in ("413", "StatusCode.RESOURCE_EXHAUSTED")


def test_timeouts_in_the_request_are_heeded(triton, client, served: Served):
    check(client.infer("several outputs", inputs(triton), timeout=10_000_000))
    with pytest.raises(InferenceServerException) as raised:
        client.infer("several outputs", inputs(triton), timeout=-1)
    assert raised.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_each_way_is_counted(served: Served, grpc_port):
    ways = ("predict", "v2_json", "v2_binary", "grpc")
    before = [metric(served, "requests_total", way=way, outcome="ok") for way in ways]
    rows = [{"vector": row.tolist(), "kind": kind} for row, kind in zip(VECTORS, KINDS, strict=True)]
    assert httpx.post(f"{served.url}/predict", json={"rows": rows}).json() == [
        {"total": 3.0, "doubled": [0.0, 2.0, 4.0], "code": 2},
        {"total": 12.0, "doubled": [6.0, 8.0, 10.0], "code": 0},
    ]
    with triton_http.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        json = [triton_http.InferRequestedOutput("code", binary_data=False)]
        client.infer("several outputs", inputs(triton_http, binary_data=False), outputs=json)
        client.infer("several outputs", inputs(triton_http))
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        client.infer("several outputs", inputs(triton_grpc))
    after = [metric(served, "requests_total", way=way, outcome="ok") for way in ways]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1, 1]


def test_bentoml_s_asynchronous_client_works(served: Served):
    import bentoml

    async def ask():
        async with bentoml.AsyncHTTPClient(served.url) as client:
            assert await client.is_ready()
            row = {"vector": [1.0, 2.0, 3.0], "kind": "a"}
            return await asyncio.gather(*(client.predict(rows=[row] * rows) for rows in range(1, 9)))

    assert [len(rows) for rows in asyncio.run(ask())] == list(range(1, 9))


def test_an_upgrade_to_http_2_is_ignored(served: Served):
    """As Java's client asks for it with each first request."""
    headers = {"connection": "upgrade, http2-settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQ"}
    rows = [{"vector": [1.0, 2.0, 3.0], "kind": "a"}]
    with httpx.Client() as client:
        for _ in range(2):
            answer = client.post(f"{served.url}/predict", json={"rows": rows}, headers=headers)
            assert (answer.status_code, answer.json()[0]["total"]) == (200, 6.0)
