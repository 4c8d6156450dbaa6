"""Requests over gRPC: messages that were serialized beforehand, and of an answer only its status is read."""

import asyncio
from time import process_time
from urllib.parse import urlsplit

import grpc

from bentos.errors import Broken, Expired, Invalid, Left, NotFound, Overloaded, Unavailable, Unsupported
from pipelines.core.errors import ServiceFailed
from pipelines.gateways.load.wire import NO_ANSWER, Wire
from pipelines.gateways.payloads import Payloads

CHANNELS = 8
"""Connections: one alone would reach only one of several processes that share a port."""
REACH_S = 3.0
DRAIN_S = 0.05
STATUS = {
    refusal.grpc: refusal.status
    for refusal in (Invalid, NotFound, Unsupported, Overloaded, Broken, Expired, Unavailable, Left)
}
"""What HTTP calls a code; others are a mistake of the service."""
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", -1),
)


class GrpcWire(Wire):
    """At most `max_in_flight` calls; beyond them a request waits. No deadline is sent along: it would be one
    more reason for the service to refuse."""

    def __init__(self, url: str, payloads: Payloads, max_in_flight: int) -> None:
        self._url, self._target = url, urlsplit(url).netloc
        self._bodies, self._path, self._most = payloads.bodies, payloads.path, max_in_flight
        self._asking: dict[int, asyncio.Task] = {}

    async def open(self) -> None:
        self._loop, self._room = asyncio.get_running_loop(), asyncio.Semaphore(self._most)
        self._channels = [grpc.aio.insecure_channel(self._target, OPTIONS) for _ in range(CHANNELS)]
        self._ask = [channel.unary_unary(self._path) for channel in self._channels]
        try:
            async with asyncio.timeout(REACH_S):
                await asyncio.gather(*(channel.channel_ready() for channel in self._channels))
        except TimeoutError as error:
            raise ServiceFailed(self._url, "can't be reached (nobody speaks gRPC there)") from error

    def send(self, turn: int) -> None:
        self._asking[turn] = self._loop.create_task(self._call(turn))

    def drop(self, turn: int) -> None:
        self._asking.pop(turn).cancel()

    def cpu_seconds(self) -> float:
        return process_time()  # gRPC has threads of its own

    async def close(self) -> None:
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels))
        await asyncio.sleep(DRAIN_S)  # gRPC would bring what is under way to the loop of the next run

    async def _call(self, turn: int) -> None:
        status = 200
        try:
            async with self._room:
                self.listener.started(turn)
                await self._ask[turn % CHANNELS](self._bodies[turn % len(self._bodies)])
        except grpc.aio.AioRpcError as error:
            status = self._failed(turn % CHANNELS, error)
        if self._asking.pop(turn, None):
            self.listener.ended(turn, status)

    def _failed(self, channel: int, error: grpc.aio.AioRpcError) -> int:
        """UNAVAILABLE is said by a service that refuses, and by gRPC itself where nobody is there."""
        lost = self._channels[channel].get_state() is not grpc.ChannelConnectivity.READY
        if error.code() is grpc.StatusCode.UNAVAILABLE and lost and not error.trailing_metadata():
            self.listener.refused()
            return NO_ANSWER
        self.said = self.said or error.details() or ""
        return STATUS.get(error.code().name, Broken.status)
