"""Ten thousand generated requests to `bentoml serve` of a model that answers all that its contract allows:
none makes it fail, crash or speak of its insides."""

import gzip
import json
import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bentos.manifest import Plan
from tests.bentos.serving import Line, Served, post, serving
from tests.bentos.tiny import CONTRACT, ROW, packed

pytestmark = pytest.mark.e2e

PLAN = Plan(max_batch_size=32, max_latency_ms=60_000, max_body_bytes=100_000, max_request_rows=50)
PAGE, ALLOWED, ROWS, TENSORS, BINARY, HEADERS, GARBAGE = 300, 500, 2000, 2000, 2000, 1500, 1500
INSIDES = (
    *(b"Traceback", b'File "', b".py", b"site-packages", b"/work", b"/tmp", b" object at 0x", b"<class"),
    *(
        b"bentos",
        b"bentoml",
        b"pydantic",
        b"orjson",
        b"numpy",
        b"onnx",
        b"httptools",
        b"uvicorn",
        b"starlette",
    ),
)
REFUSALS = {400, 404, 405, 408, 413, 415}


def generated(requests: int):
    """The same requests each time."""
    return settings(
        max_examples=requests,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    _, manifest = packed(folder / "v3", plan=PLAN)
    manifest.save(folder / "v3")
    with serving(folder, folder / "v3") as served:
        workers = [worker.pid for worker in served.workers()]
        yield served
        assert [worker.pid for worker in served.workers()] == workers
        assert not [line for line in served.log.read_text().splitlines() if '"level":"error"' in line]


def check(answer) -> None:
    """An answer, or a refusal in our own words."""
    assert answer.status in REFUSALS | {200}, answer
    if answer.status != 200:
        assert not [word for word in INSIDES if word in answer.body.replace(b"\\", b"")], answer
    assert answer.headers["x-request-id"]


def ask(line: Line, request: bytes):
    line.send(request)
    answer = line.answer()
    check(answer)
    return answer


# What bodies are made of.

FLOATS = st.floats(-100, 3e38, allow_nan=False)
GOOD_ROWS = st.fixed_dictionaries(
    {
        "carrier": st.sampled_from(["UA", "AA", "B6"]),
        "origin": st.text(st.characters(codec="utf-8"), max_size=8),
        "hour": st.integers(0, 23),
        "dep delay": FLOATS,
        "wind": st.none() | FLOATS,
    }
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def damaged(draw, whole: st.SearchStrategy[bytes]) -> bytes:
    """Some bytes with a few of them changed, or cut off."""
    content = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(content[: draw(st.none() | st.integers(0, len(content)))])


@st.composite
def changed(draw, objects: st.SearchStrategy[dict]) -> dict:
    """An object with one of its members, at any depth, replaced, added or removed."""
    whole = json.loads(json.dumps(draw(objects)))
    inside = whole
    while True:
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        key = draw(st.sampled_from(keys)) if keys else None
        if key is None or not isinstance(inside[key], dict | list) or draw(st.integers(0, 3)) == 0:
            break
        inside = inside[key]
    how = draw(st.sampled_from(["replace", "add", "remove"]))
    if isinstance(inside, dict) and how == "add":
        inside[draw(st.text(max_size=6))] = draw(ANYTHING)
    elif key is not None and how == "remove":
        del inside[key]
    elif key is not None:
        inside[key] = draw(ANYTHING)
    return whole


def written(value) -> bytes:
    return json.dumps(value).encode()


BODIES = st.fixed_dictionaries({"rows": st.lists(GOOD_ROWS, min_size=1, max_size=3)})


def tensors(binary: bool) -> dict:
    """A request of the Open Inference Protocol for two rows."""
    kinds = {"int64": "INT64", "int32": "INT32", "float32": "FP32"}
    inputs = []
    for field in CONTRACT.inputs:
        tensor = {"name": field.name, "shape": [2], "datatype": kinds[field.dtype]}
        if field.categories is not None:
            tensor |= {"datatype": "BYTES", "data": ["AA", "B6"] if field.name == "carrier" else ["JFK", "x"]}
        elif binary:
            tensor["parameters"] = {"binary_data_size": 8}
        else:
            tensor["data"] = [1, 2]
        inputs.append(tensor)
    return {"id": "a", "inputs": inputs, "outputs": [{"name": "probability"}]}


NUMBERS = struct.pack("<2i4f", 1, 2, 3, 4, 5, 6)
INFER, GOOD = "/v2/models/tiny/infer", post("/predict", written({"rows": [ROW]}))


# The tests.


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_the_openapi_page_is_true(served: Served, mode):
    import requests
    import schemathesis
    from schemathesis.specs.openapi import checks as of

    page = schemathesis.openapi.from_url(f"{served.url}/docs.json")
    checks = [
        schemathesis.checks.not_a_server_error,
        of.status_code_conformance,
        of.content_type_conformance,
        of.response_schema_conformance,
        of.negative_data_rejection,
        of.positive_data_acceptance,
    ]
    session, count = requests.Session(), 0
    for operation in (found.ok() for found in page.get_all_operations()):
        if mode == "negative" and operation.method == "get":
            continue  # it takes nothing that could be wrong

        @generated(PAGE)
        @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
        def call(case):
            nonlocal count
            count += 1
            case.call_and_validate(base_url=served.url, session=session, checks=checks)

        call()
    assert count >= PAGE


def test_rows_in_json(served: Served):
    bodies = st.one_of(
        BODIES.map(written),
        changed(BODIES).map(written),
        changed(BODIES).map(written),
        damaged(BODIES.map(written)),
        ANYTHING.map(written),
        st.binary(max_size=60),
    )
    with Line(served) as line:

        @generated(ROWS)
        @given(bodies)
        def call(body):
            ask(line, post("/predict", body))

        call()


def test_what_the_contract_allows_is_answered(served: Served):
    with Line(served) as line:

        @generated(ALLOWED)
        @given(BODIES)
        def call(body):
            answer = ask(line, post("/predict", written(body)))
            assert answer.status == 200
            assert all(0 <= row["probability"] <= 1 for row in json.loads(answer.body))

        call()


def test_tensors_in_json(served: Served):
    whole = st.just(tensors(binary=False))
    bodies = st.one_of(changed(whole).map(written), changed(whole).map(written), damaged(whole.map(written)))
    with Line(served) as line:
        assert ask(line, post(INFER, written(tensors(binary=False)))).status == 200

        @generated(TENSORS)
        @given(bodies)
        def call(body):
            ask(line, post(INFER, body))

        call()


def test_tensors_in_bytes(served: Served):
    good = written(tensors(binary=True))
    lengths = st.one_of(
        st.just(len(good)), st.integers(0, 1000), st.integers(), st.text("0123456789-x", max_size=9)
    )
    whole = st.just(tensors(binary=True))
    heads = st.one_of(st.just(good), changed(whole).map(written), damaged(st.just(good)))
    with Line(served) as line:
        request = post(INFER, good + NUMBERS, inference_header_content_length=len(good))
        assert ask(line, request).status == 200

        @generated(BINARY)
        @given(heads, st.just(NUMBERS) | st.binary(max_size=32), st.none() | lengths)
        def call(head, numbers, length):
            length = len(head) if length is None else length
            ask(line, post(INFER, head + numbers, inference_header_content_length=length))

        call()


def test_headers_that_lie(served: Served):
    good = written({"rows": [ROW]})
    packings = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}
    encodings = st.sampled_from([*packings, "br", "gzip, gzip", "GZIP", ""])
    contents = st.sampled_from([bytes, gzip.compress, zlib.compress]).map(lambda pack: pack(good))
    headers = st.fixed_dictionaries(
        {},
        optional={
            "content_type": st.sampled_from(
                ["application/json; charset=utf-8", "text/csv", "multipart/form-data"]
            ),
            "content_encoding": encodings,
            "content_length": st.integers(0, 100) | st.sampled_from(["-1", "1e3", "9" * 30, "1, 1"]),
            "transfer_encoding": st.sampled_from(["chunked", "gzip", "identity"]),
            "x_timeout_ms": st.integers(60_000, 10**12) | st.sampled_from(["0", "-5", "1.5", "soon", "²"]),
            "x_request_id": st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
            "traceparent": st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60),
            "connection": st.sampled_from(["close", "upgrade", "keep-alive, te"]),
            "upgrade": st.sampled_from(["h2c", "websocket"]),
            "expect": st.sampled_from(["100-continue", "more"]),
        },
    )

    @generated(HEADERS)
    @given(st.sampled_from(["/predict", INFER, "/%70redict", "/livez"]), contents, headers)
    def call(path, content, said):
        with Line(served) as line:
            line.send(post(path, content, **said))
            line.end()
            for answer in line.answers():
                if answer.status != 100:
                    check(answer)

    call()


def test_what_is_no_http(served: Served):
    request = post("/predict", written({"rows": [ROW]}))
    head = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"

    @generated(GARBAGE)
    @given(
        st.one_of(damaged(st.just(request)), damaged(st.just(head + request + head)), st.binary(max_size=80))
    )
    def call(content):
        with Line(served) as line:
            line.send(content)
            line.end()
            for answer in line.answers():
                check(answer)

    call()


# What requests like these have found.


@pytest.mark.parametrize(
    ("requests", "statuses"),
    [
        pytest.param(
            [GOOD, post("/predict", b"", content_length=10**9)], [200, 413], id="too large behind a good one"
        ),
        pytest.param([GOOD, GOOD, b"nonsense\r\n\r\n"], [200, 200, 400], id="nonsense behind good ones"),
        pytest.param([post("http://[", b"")], [400], id="no address"),
        pytest.param([post("/predict", b"rows=1", content_type="text/csv"), GOOD], [415, 200], id="no JSON"),
        pytest.param([post("/%70redict", b"{"), GOOD], [400, 200], id="a path in percent signs"),
        pytest.param(
            [post("/predict", b"{", connection="upgrade", upgrade="websocket"), GOOD],
            [400, 200],
            id="a websocket",
        ),
        pytest.param([post("/livez", b"x" * 1000), GOOD], [405, 200], id="a body that nobody wants"),
        pytest.param([b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n"], [400], id="a proxy"),
    ],
)
def test_answers_come_in_order_and_in_our_words(served: Served, requests, statuses):
    with Line(served) as line:
        line.send(b"".join(requests))
        answers = [line.answer() for _ in statuses]
    assert [answer.status for answer in answers] == statuses
    for answer in answers:
        check(answer)


def test_the_answer_to_head_has_no_body(served: Served):
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", served.port)
    for method in ("HEAD", "GET", "HEAD", "GET"):
        connection.request(method, "/v2/health/live")
        answer = connection.getresponse()
        assert (answer.status, len(answer.read())) == (200, 0 if method == "HEAD" else 13)
    connection.close()
