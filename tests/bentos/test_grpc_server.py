"""Open Inference Protocol over gRPC: the real tritonclient against a server on a port of its own. Behind it
answers a stand-in for the release: the tiny model's engine, with no batcher."""

import asyncio
import threading
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from bentos.engines.engine import Engine
from bentos.errors import Left, Overloaded, Refusal
from bentos.inference.grpc_server import MAX_IN_FLIGHT, SERVICE, grpc_server
from bentos.inference.protobuf import read
from bentos.inference.tensors import datatype
from bentos.manifest import Manifest, Plan
from bentos.work import Job
from tests.bentos.tiny import CONTRACT, ROW, packed

PATIENCE_SECONDS = 30


class Answering:
    """Answers from the engine at once; where it `holds`, only when it is told to `let_go`."""

    tokenize, is_ready, holds = None, True, False

    def __init__(self, folder):
        model, self.manifest = packed(folder, plan=Plan(max_body_bytes=100_000, max_request_rows=8))
        self._engine = Engine(model, CONTRACT)
        self.refusal, self.held, self.counted = None, [], []
        self.asked, self.left = threading.Semaphore(0), threading.Semaphore(0)

    def parse(self, size_bytes, parse, then, failed):
        return then(parse())

    def ask(self, way, *, done, feeds, request_id, timeout_seconds, trace):
        size = len(feeds["hour"])
        job = Job(done, size, timeout_seconds or 0, 0.0, feeds=feeds, request_id=request_id, trace=trace)
        self.last = job
        self.held.append(job)
        self.asked.release()
        if not self.holds:
            self.let_go()
        return job

    def let_go(self):
        held, self.held = self.held, []
        for job in reversed(held):
            job.refusal = self.refusal
            job.outputs = None if self.refusal else self._engine.run(job.feeds)
            job.done(job)

    def cancel(self, job):
        job.refusal = Left()
        job.done(job)
        self.left.release()

    def refused(self, way, refusal):
        self.counted.append((way, refusal.outcome))


@contextmanager
def serving(release):
    """The address of a server on a loop of its own, and that loop."""
    loop, started, ports = asyncio.new_event_loop(), threading.Event(), []

    async def serve():
        server = grpc_server(release)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        started.set()
        await stop.wait()
        await server.stop(None)

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(PATIENCE_SECONDS)
    yield f"127.0.0.1:{ports[0]}", loop
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    release = Answering(tmp_path_factory.mktemp("grpc"))
    with serving(release) as (address, loop):
        yield release, address, loop


@pytest.fixture
def release(served):
    release, _, loop = served
    yield release
    loop.call_soon_threadsafe(release.let_go)
    release.holds, release.refusal, release.is_ready = False, None, True
    release.counted.clear()
    release.asked, release.left = threading.Semaphore(0), threading.Semaphore(0)


@pytest.fixture
def client(served, release):
    with triton.InferenceServerClient(served[1]) as client:
        yield client


@pytest.fixture
def call(served, release):
    """One unary method with bytes in and out: `call(name, message)` answers with bytes and trailers."""
    with grpc.insecure_channel(served[1]) as channel:

        def unary(name, message, **options):
            method = channel.unary_unary(f"/{SERVICE}/{name}")
            return method.with_call(message, timeout=PATIENCE_SECONDS, **options)

        yield unary


def tensors(hours=(7,)):
    """Inputs of tritonclient: the tiny model's row, at each of these hours."""
    inputs = []
    for field in CONTRACT.inputs:
        value = {**ROW, "wind": np.nan}[field.name]
        values = np.full(len(hours), value, object if field.categories else field.dtype)
        given = triton.InferInput(field.name, [len(hours)], datatype(field))
        inputs.append(given.set_data_from_numpy(np.array(hours, "int32") if field.name == "hour" else values))
    return inputs


def probability(release, hour):
    columns = {name: np.array([np.nan if value is None else value]) for name, value in ROW.items()}
    return release._engine.predict({**columns, "hour": np.array([hour])})["probability"][0]


def test_health_and_metadata(client, release):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("tiny") and client.is_model_ready("tiny", "3")
    assert not client.is_model_ready("tiny", "4") and not client.is_model_ready("other")
    assert client.get_server_metadata().name == "seatrial"
    described = client.get_model_metadata("tiny", "3")
    assert described.platform == "onnxruntime_onnx" and list(described.versions) == ["3"]
    assert [(given.name, given.datatype, list(given.shape)) for given in described.inputs] == [
        (field.name, datatype(field), [-1]) for field in CONTRACT.inputs
    ]
    release.is_ready = False
    assert client.is_server_live()
    assert not client.is_server_ready() and not client.is_model_ready("tiny")


def test_tritonclient_gets_its_answer(client, release):
    wanted = [triton.InferRequestedOutput("probability")]
    answer = client.infer("tiny", tensors((7, 9)), request_id="a1", model_version="3", outputs=wanted)
    expected = [probability(release, hour) for hour in (7, 9)]
    np.testing.assert_array_equal(answer.as_numpy("probability"), np.float32(expected))
    said = answer.get_response()
    assert (said.id, said.model_name, said.model_version) == ("a1", "tiny", "3")


def filled(**contents):
    """A request for the tiny model with typed contents instead of raw bytes, as bytes."""
    request = service_pb2.ModelInferRequest(model_name="tiny")
    for field in CONTRACT.inputs:
        value = ROW[field.name]
        kind = {"BYTES": "bytes_contents", "INT32": "int_contents"}.get(datatype(field), "fp32_contents")
        value = np.nan if value is None else value.encode() if field.categories else value
        given = request.inputs.add(name=field.name, datatype=datatype(field), shape=[1])
        getattr(given.contents, kind).extend(contents.get(field.name, [value]))
    return request


def test_typed_contents_are_as_good_as_raw_bytes(call, release):
    answer, _ = call("ModelInfer", filled().SerializeToString())
    (raw,) = service_pb2.ModelInferResponse.FromString(answer).raw_output_contents
    assert np.frombuffer(raw, np.float32) == probability(release, 7)


def test_trailers_say_who_answered_whom(call):
    _, done = call("ModelInfer", filled().SerializeToString(), metadata=[("x-request-id", "mine")])
    trailers = dict(done.trailing_metadata())
    assert trailers["x-model-version"] == "3" and trailers["x-release-id"] == "v3-0a1b2c"
    assert trailers["x-request-id"] == "mine"


def test_metadata_says_whose_request_it_is(call, release):
    call("ModelInfer", filled().SerializeToString(), metadata=[("x-user-id", "ann")])
    assert release.last.trace[b"x-user-id"] == b"ann"


def both_ways(request):
    request.raw_input_contents.extend([b""] * len(request.inputs))


def few_raw(request):
    request.raw_input_contents.append(b"")


def shared(request):
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"


def bad_timeout(request):
    request.parameters["timeout"].string_param = "soon"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda request: request.inputs[2].contents.Clear(), "hour: has 0 values", id="none"),
        pytest.param(lambda request: request.inputs.pop(), "inputs.wind: is missing", id="an input missing"),
        pytest.param(lambda request: request.inputs[0].shape.append(-1), "none below 1", id="negative size"),
        pytest.param(both_ways, "inputs.carrier: is given twice", id="contents and raw bytes"),
        pytest.param(few_raw, "raw_input_contents: has 1 entries for 5 inputs", id="too few raw bytes"),
        pytest.param(shared, "inputs.carrier: is in shared memory", id="shared memory"),
        pytest.param(bad_timeout, "parameters.timeout: must be a whole", id="a timeout of text"),
        pytest.param(lambda request: request.outputs.add(name="y"), "outputs.y: is not an out", id="output"),
    ],
)  # fmt: skip
def test_what_breaks_the_contract_is_refused(call, release, change, reason):
    request = filled()
    change(request)
    with pytest.raises(grpc.RpcError) as refused:
        call("ModelInfer", request.SerializeToString())
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason in refused.value.details()
    assert release.counted == [("grpc", "client_error")]
    assert dict(refused.value.trailing_metadata())["x-request-id"]


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\xff" * 9, id="no Protobuf"),
        pytest.param(filled().SerializeToString()[:-3], id="cut off"),
        pytest.param(b"\x0a\x02\xff\xfe", id="a name that is no UTF-8"),
    ],
)
def test_malformed_messages_are_refused(call, message):
    with pytest.raises(grpc.RpcError, match="the message is no ModelInferRequest") as refused:
        call("ModelInfer", message)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@settings(max_examples=500)
@given(st.data())
def test_no_message_raises_anything_but_refusals(data):
    body = bytearray(filled().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        until = data.draw(st.integers(at, min(len(body), at + 4)))
        body[at:until] = data.draw(st.binary(max_size=4))
    try:
        read(bytes(body), Manifest("tiny", "3", "v3-0a1b2c", "fp32", "", CONTRACT), None)
    except Refusal as refusal:
        assert str(refusal)


@pytest.mark.parametrize(("model", "version"), [("other", ""), ("tiny", "4")], ids=["model", "version"])
def test_another_model_is_not_found(client, model, version):
    with pytest.raises(InferenceServerException, match="NOT_FOUND"):
        client.infer(model, tensors(), version)
    with pytest.raises(InferenceServerException, match="NOT_FOUND"):
        client.get_model_metadata(model, version)


def test_too_large_is_exhausting(client, call):
    with pytest.raises(InferenceServerException, match=r"RESOURCE_EXHAUSTED.*9 is over the limit of 8"):
        client.infer("tiny", tensors((7,) * 9))
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        with pytest.raises(grpc.RpcError) as refused:
            call("ModelInfer", bytes(200_000), compression=compression)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_what_is_not_spoken_is_unimplemented(client):
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        client.get_model_config("tiny")


def test_a_refusal_says_when_to_come_back(call, release):
    release.refusal = Overloaded(3200, 100)
    with pytest.raises(grpc.RpcError) as refused:
        call("ModelInfer", filled().SerializeToString())
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(refused.value.trailing_metadata())["retry-after"] == "3"


def test_a_mistake_of_ours_says_nothing_of_our_insides(client, release, monkeypatch, caplog):
    monkeypatch.setattr(release, "ask", lambda *_, **__: 1 / 0)
    with pytest.raises(InferenceServerException, match=r"INTERNAL.*failed to handle this request") as failed:
        client.infer("tiny", tensors())
    assert "division" not in str(failed.value) and "division" in caplog.text


def test_a_client_that_leaves_cancels_its_job(served, release):
    release.holds = True
    with grpc.insecure_channel(served[1]) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer").future(filled().SerializeToString())
        assert release.asked.acquire(timeout=PATIENCE_SECONDS)
        call.cancel()
        assert release.left.acquire(timeout=PATIENCE_SECONDS)


def test_the_deadline_of_the_client_is_ours(client, release):
    release.holds = True
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        client.infer("tiny", tensors(), client_timeout=0.2)
    assert release.left.acquire(timeout=PATIENCE_SECONDS)
    assert 0 < release.last.deadline < 1


def test_the_shorter_timeout_counts(client, release):
    client.infer("tiny", tensors(), timeout=1_500_000, client_timeout=60)
    assert release.last.deadline == 1.5
    client.infer("tiny", tensors(), client_timeout=60)
    assert 50 < release.last.deadline < 70


class Stream:
    """A stream of tritonclient, and what came back on it in order."""

    def __init__(self, client):
        self.client, self.answers, self._arrived = client, [], threading.Semaphore(0)
        client.start_stream(self._take)

    def _take(self, result, error):
        self.answers.append(error or result)
        self._arrived.release()

    def send(self, *hours, model="tiny"):
        for hour in hours:
            self.client.async_stream_infer(model, tensors((hour,)), request_id=str(hour))

    def wait(self, count):
        for _ in range(count):
            assert self._arrived.acquire(timeout=PATIENCE_SECONDS)
        return self.answers


def test_a_stream_answers_in_the_order_of_its_requests(served, client, release):
    release.holds, stream = True, Stream(client)
    stream.send(*range(8))
    for _ in range(8):
        assert release.asked.acquire(timeout=PATIENCE_SECONDS)  # all are in flight at once
    served[2].call_soon_threadsafe(release.let_go)  # the last comes first
    answers = stream.wait(8)
    assert [answer.get_response().id for answer in answers] == [str(hour) for hour in range(8)]
    assert [answer.as_numpy("probability")[0] for answer in answers] == [
        probability(release, hour) for hour in range(8)
    ]
    client.stop_stream()


def test_a_refusal_in_a_stream_ends_nothing(client):
    stream = Stream(client)
    stream.send(7, 24, 9)
    stream.send(7, model="other")
    stream.send(8)
    answers = stream.wait(5)
    assert "inputs.hour: is above 23" in str(answers[1]) and "no such model" in str(answers[3])
    assert [answers[at].get_response().id for at in (0, 2, 4)] == ["7", "9", "8"]
    client.stop_stream()


def test_a_stream_reads_no_more_than_it_can_hold(served, client, release):
    release.holds, stream = True, Stream(client)
    count = MAX_IN_FLIGHT + 20
    stream.send(*[7] * count)
    for _ in range(MAX_IN_FLIGHT):
        assert release.asked.acquire(timeout=PATIENCE_SECONDS)
    assert len(release.held) <= MAX_IN_FLIGHT + 2  # one is waited for, one waits for its place
    release.holds = False
    served[2].call_soon_threadsafe(release.let_go)
    assert len(stream.wait(count)) == count
    client.stop_stream()


def test_a_stream_that_is_cut_off_cancels_its_jobs(client, release):
    release.holds, stream = True, Stream(client)
    stream.send(7, 8)
    for _ in range(2):
        assert release.asked.acquire(timeout=PATIENCE_SECONDS)
    client.stop_stream(cancel_requests=True)
    for _ in range(2):
        assert release.left.acquire(timeout=PATIENCE_SECONDS)
