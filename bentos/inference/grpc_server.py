"""The Open Inference Protocol over gRPC, `inference.GRPCInferenceService`, on the event loop of the service.

Only a service with a gRPC port imports this. What is no part of the protocol's core (model control,
statistics, shared memory) is answered UNIMPLEMENTED by gRPC itself.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from bentos.errors import NotFound, Refusal, refusal_of
from bentos.http.messages import Head, request_id
from bentos.inference import protocol
from bentos.inference.asked import Asked
from bentos.inference.protobuf import check_model, messages, read, written
from bentos.work import Job

if TYPE_CHECKING:
    from bentos.release import Release

SERVICE = "inference.GRPCInferenceService"
MAX_IN_FLIGHT = 64
"""Requests of one stream that wait for answers; further ones are not read until then."""


@dataclass(slots=True, eq=False)
class Pending:
    """A request on its way: the answer's message or the refusal comes as the result of `answer`."""

    answer: asyncio.Future
    job: Job | None = None


def grpc_server(release: "Release") -> grpc.aio.Server:
    """A server of the release, which listens nowhere yet. Several processes can share a port."""
    options = [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", release.manifest.plan.max_body_bytes),
        ("grpc.max_send_message_length", -1),
    ]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((_handlers(InferenceService(release)),))
    return server


async def serve_grpc(release: "Release", port: int, host: str = "127.0.0.1") -> grpc.aio.Server:
    """Listen and answer until the server's `stop`. Raises RuntimeError where the port is not to be had."""
    server = grpc_server(release)
    server.add_insecure_port(f"{host}:{port}")
    await server.start()
    return server


class InferenceService:
    """The methods of the service. Those with tensors get bytes instead of messages, so that malformed ones
    are refused like everything else that is malformed."""

    def __init__(self, release: "Release") -> None:
        self._release, self._manifest = release, release.manifest
        manifest = release.manifest
        self._stamp = (("x-model-version", manifest.version), ("x-release-id", manifest.release_id))

    async def live(self, _: Any, context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def ready(self, _: Any, context: Any) -> Any:
        return messages.ServerReadyResponse(ready=self._release.is_ready)

    async def model_ready(self, request: Any, context: Any) -> Any:
        try:
            check_model(self._manifest, request.name, request.version)
        except NotFound:
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=self._release.is_ready)

    async def metadata(self, _: Any, context: Any) -> Any:
        return messages.ServerMetadataResponse(**protocol.server_metadata())

    async def model_metadata(self, request: Any, context: Any) -> Any:
        try:
            check_model(self._manifest, request.name, request.version)
        except NotFound as refusal:
            await _abort(context, refusal, self._stamp)
        return messages.ModelMetadataResponse(**protocol.metadata(self._manifest))

    async def infer(self, body: bytes, context: Any) -> Any:
        head, stamp = self._opened(context)
        pending = self._submit(body, head, context.time_remaining())
        try:
            answer = await pending.answer
        except asyncio.CancelledError:
            self._cancel(pending)
            raise
        if isinstance(answer, Refusal):
            await _abort(context, answer, stamp)
        return answer

    async def stream(self, bodies: AsyncIterator[bytes], context: Any) -> None:
        """Answers in the order of the requests; a refusal is one of the answers and ends nothing."""
        head, _ = self._opened(context)
        queue: asyncio.Queue[Pending | None] = asyncio.Queue(MAX_IN_FLIGHT)
        unanswered: set[Pending] = set()

        async def take() -> None:
            async for body in bodies:
                pending = self._submit(body, head, context.time_remaining())
                unanswered.add(pending)
                await queue.put(pending)
            await queue.put(None)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(take())
                while (pending := await queue.get()) is not None:
                    await context.write(_in_band(await pending.answer))
                    unanswered.remove(pending)
        finally:
            for pending in unanswered:
                self._cancel(pending)

    def _opened(self, context: Any) -> tuple[Head, tuple]:
        """The headers of a call, its request id among them, and the trailers that are now set."""
        given = context.invocation_metadata() or ()
        head = {key.encode(): value if isinstance(value, bytes) else value.encode() for key, value in given}
        head[b"x-request-id"] = request_id(head)
        stamp = (*self._stamp, ("x-request-id", head[b"x-request-id"].decode()))
        context.set_trailing_metadata(stamp)
        return head, stamp

    def _submit(self, body: bytes, head: Head, seconds_left: float | None) -> Pending:
        """The request on its way to its batch; one that never gets there is answered at once."""
        pending = Pending(asyncio.get_running_loop().create_future())
        try:
            pending.job = self._release.parse(
                len(body),
                partial(read, body, self._manifest, self._release.tokenize),
                partial(self._ask, pending, head, seconds_left),
                partial(self._failed, pending),
            )
        except Exception as error:  # noqa: BLE001  a mistake of ours fails one request, not the service
            self._failed(pending, error)
        return pending

    def _ask(self, pending: Pending, head: Head, seconds_left: float | None, request: Asked) -> Job:
        return self._release.ask(
            "grpc",
            done=partial(self._done, pending, request),
            feeds=request.feeds,
            request_id=head[b"x-request-id"].decode(),
            timeout_seconds=request.within(seconds_left),
            trace=head,
        )

    def _failed(self, pending: Pending, error: Exception) -> None:
        refusal = refusal_of(error)
        self._release.refused("grpc", refusal)
        if not pending.answer.done():
            pending.answer.set_result(refusal)

    def _done(self, pending: Pending, request: Asked, job: Job) -> None:
        if not pending.answer.done():  # it is when the client has left
            pending.answer.set_result(job.refusal or written(request, job.outputs or {}, self._manifest))

    def _cancel(self, pending: Pending) -> None:
        if pending.job is not None and (pending.answer.cancelled() or not pending.answer.done()):
            self._release.cancel(pending.job)


def _handlers(service: InferenceService) -> grpc.GenericRpcHandler:
    methods = {
        "ServerLive": (service.live, messages.ServerLiveRequest),
        "ServerReady": (service.ready, messages.ServerReadyRequest),
        "ModelReady": (service.model_ready, messages.ModelReadyRequest),
        "ServerMetadata": (service.metadata, messages.ServerMetadataRequest),
        "ModelMetadata": (service.model_metadata, messages.ModelMetadataRequest),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(method, request.FromString, _serialized)
        for name, (method, request) in methods.items()
    }
    handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(service.infer, None, _serialized)
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(service.stream, None, _serialized)
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


def _serialized(message: Any) -> bytes:
    return message.SerializeToString()


async def _abort(context: Any, refusal: Refusal, stamp: tuple) -> None:
    after = refusal.retry_after_seconds
    trailers = stamp if after is None else (*stamp, ("retry-after", str(after)))
    await context.abort(grpc.StatusCode[refusal.grpc], str(refusal), trailers)


def _in_band(answer: Any) -> Any:
    if isinstance(answer, Refusal):
        return messages.ModelStreamInferResponse(error_message=str(answer))
    return messages.ModelStreamInferResponse(infer_response=answer)
