"""The load generator: stages of load put on a service, and every request of them recorded."""

import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import numpy as np
import orjson
import pyarrow as pa

from pipelines.core.errors import ContractBroken, SettingsInvalid
from pipelines.core.latency import Offer, Samples, Stage, summarise
from pipelines.gateways.load.exact import run_exactly
from pipelines.gateways.load.http_wire import HttpWire
from pipelines.gateways.load.progress import Meter, Moment, Progress, line
from pipelines.gateways.load.sending import Sending
from pipelines.gateways.load.wire import Wire
from pipelines.gateways.payloads import Payloads

__all__ = ["LoadResult", "Moment", "OpenLoop", "Progress", "Traffic", "line"]

WRONG = (400, 401, 403, 404, 405, 413, 415, 422, 501)
"""Answers that say that no request of this kind will ever be answered."""
FIRST_ANSWERS = 10
MAX_SAID = 200
NONE = Samples(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, np.int64))


@dataclass(frozen=True)
class LoadResult:
    """The figures of each stage, and of each every single request."""

    stages: list[Stage]
    samples: list[Samples]

    def table(self) -> pa.Table:
        """One row a request: stage, intended_s, sent_s, latency_ms, status; times count from when its stage
        began."""
        pairs = zip(self.stages, self.samples, strict=True)
        parts = [
            pa.table({"stage": pa.repeat(stage.name, len(samples.status)), **vars(samples)})
            for stage, samples in pairs
        ]
        return pa.concat_tables(parts)


class Traffic(ABC):
    """A source of load."""

    @abstractmethod
    def run(
        self,
        url: str,
        payloads: Payloads,
        offers: Sequence[Offer],
        seed: int,
        on_progress: Progress | None = None,
    ) -> LoadResult:
        """Send the bodies in turn to the service at a URL (http://HOST:PORT, whatever the wire), one offer
        after the other, the times of each from `seed` and its number. Where offers limit the clients, the
        fewest count for all.

        A service that refuses connections for a second ends the run early: the samples so far, and stages
        with fewer requests than were planned. Raises ServiceFailed where nothing listens from the start,
        ContractBroken where the service understands none of the first requests, SettingsInvalid for a load
        that can't be sent, LoadTestInvalid where this machine is out of connections."""


class OpenLoop(Traffic):
    """Sends when it is due, from one event loop; latency counts from when that was.

    timeout_s        a request without an answer ends so long after it was sent
    max_connections  beyond so many requests in flight one waits, and the wait counts as its latency
    max_requests     of a whole run
    anywhere         load may be put on other machines than this one
    """

    def __init__(
        self,
        timeout_s: float = 10.0,
        max_connections: int = 512,
        max_requests: int = 1_000_000,
        anywhere: bool = False,
    ) -> None:
        self.timeout_s, self.max_connections, self.max_requests = timeout_s, max_connections, max_requests
        self.anywhere = anywhere

    def run(
        self,
        url: str,
        payloads: Payloads,
        offers: Sequence[Offer],
        seed: int,
        on_progress: Progress | None = None,
    ) -> LoadResult:
        _check_target(url, self.anywhere)
        total = sum(offer.mean_rps * offer.seconds for offer in offers)
        if not payloads.bodies:
            raise SettingsInvalid("The rows to send in the load test", 0, "give it at least one")
        if total > self.max_requests:
            mend = f"a run may send {self.max_requests:,} requests; lower the rates or shorten the stages"
            raise SettingsInvalid("The load in requests", round(total), mend)
        return run_exactly(self._run(url, payloads, offers, seed, on_progress))

    async def _run(
        self, url: str, payloads: Payloads, offers: Sequence[Offer], seed: int, tell
    ) -> LoadResult:
        wire = self._wire(url, payloads, min(offer.clients or self.max_connections for offer in offers))
        run = _Run(wire, f"{url.rstrip('/')}{payloads.path}", self.timeout_s, tell)
        try:
            await wire.open()
            for number, offer in enumerate(offers):
                await run.stage(offer, offer.times(seed + number))
        finally:
            await wire.close()
        return run.result

    def _wire(self, url: str, payloads: Payloads, most: int) -> Wire:
        if payloads.wire == "grpc":
            from pipelines.gateways.load.grpc_wire import GrpcWire

            return GrpcWire(url, payloads, most)
        return HttpWire(url, payloads, most, self.timeout_s)


class _Run:
    """One run, stage by stage."""

    def __init__(self, wire: Wire, target: str, timeout_s: float, tell: Progress | None) -> None:
        self.result = LoadResult([], [])
        self._wire, self._target, self._timeout_s, self._tell = wire, target, timeout_s, tell
        self._turns, self._gone, self._understood = 0, False, False

    async def stage(self, offer: Offer, times: np.ndarray) -> None:
        """Offer it, unless the target is gone."""
        samples, cpu_seconds, seconds = NONE, 0.0, 0.0
        meter = Meter(offer.name, offer.seconds, self._tell)
        if not self._gone:
            look, is_limited = partial(self._look, meter), offer.clients is not None
            sending = Sending(times, self._wire, self._timeout_s, self._turns, look, is_limited)
            before = self._wire.cpu_seconds()
            samples = await sending.run()
            cpu_seconds, seconds = self._wire.cpu_seconds() - before, sending.now_s()
            self._check(sending, enough=1)
            self._turns, self._gone = self._turns + sending.sent, sending.gone
        stage = summarise(offer, len(times), samples, cpu_seconds)
        self.result.stages.append(stage)
        self.result.samples.append(samples)
        meter.end(stage, seconds)

    def _look(self, meter: Meter, sending: Sending) -> None:
        self._check(sending, FIRST_ANSWERS)
        meter.look(sending)

    def _check(self, sending: Sending, enough: int) -> None:
        """Whether the service takes requests of this kind at all, once that can be told."""
        if self._understood or len(sending.answers) < enough:
            return
        first = [sending.status[number] for number in sending.answers[:FIRST_ANSWERS]]
        if not set(first) <= set(WRONG):
            self._understood = True
            return
        reason = f"the first {len(first)} were answered {first[0]} ({_sentence(self._wire.said)})"
        raise ContractBroken(f"A request to {self._target}", reason, "send rows and a model that it knows")


def _sentence(said: str) -> str:
    """What a service says of an error, in short: the text in its JSON, where there is one."""
    try:
        given = orjson.loads(said)
    except orjson.JSONDecodeError:
        given = said
    if isinstance(given, dict):
        given = next((given[key] for key in ("error", "message", "detail") if key in given), said)
    return " ".join(str(given).split())[:MAX_SAID].rstrip(".") or "without a word"


def _check_target(url: str, anywhere: bool) -> None:
    """Load is only put on this machine, unless told otherwise."""
    try:
        parts = urlsplit(url)
        host, named = parts.hostname or "", parts.scheme == "http" and bool(parts.port)
        fits = named and bool(host) and (anywhere or _is_local(host))
    except ValueError:
        fits = False
    if not fits:
        wanted = "http://HOST:PORT" if anywhere else "http://127.0.0.1:PORT"
        raise SettingsInvalid("The target of the load test", url, f"it must be {wanted}")


def _is_local(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
