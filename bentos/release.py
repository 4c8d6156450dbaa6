"""One release, loaded: what every way in asks, and all that happens to a request around its batch.

front, grpc_server, service  →  Release.ask  →  cache → circuit breaker → batcher → engine
                                Job.reply    ←  metrics, cache, prediction log, trace  ←
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bentos.batching.batcher import Batcher
from bentos.batching.costs import Costs
from bentos.batching.forecast import Forecast
from bentos.contract import Contract
from bentos.engines.device import open_engine
from bentos.errors import Invalid, Left, Refusal, TooLarge, Unavailable
from bentos.guarding.breaker import Breaker, Fallback
from bentos.guarding.cache import Cache
from bentos.manifest import Manifest, verified_model
from bentos.settings import Settings
from bentos.watching import logs
from bentos.watching.metrics import Metrics, Way
from bentos.work import Job, Tensors

logger = logging.getLogger(__name__)
ACCESS = logging.getLogger(logs.ACCESS)

Parsed = TypeVar("Parsed")
LARGE_BYTES = 32_768
"""Of a request with texts: a few ms of the tokenizer."""


class Release:
    """A verified model with its engines, warmed up, and its batcher. For one event loop."""

    def __init__(self, folder: Path, manifest: Manifest, settings: Settings) -> None:
        self.manifest, self._settings = manifest, settings
        plan, contract = manifest.plan, manifest.contract
        model = verified_model(folder, manifest)
        self.metrics = Metrics(settings.metrics_folder, {**manifest.identity, "rung": manifest.rung})
        self._engines = [open_engine(model, contract, plan) for _ in range(plan.replicas)]
        measured = [engine.warm_up(plan) for engine in self._engines]
        shipped = {length for _, length, _ in plan.costs}
        here = [cost for cost in measured[0] if cost[1] not in shipped]
        costs = Costs((*plan.costs, *here), plan.max_batch_size, plan.lengths)
        self._forecast = Forecast(plan, costs)
        self.batcher = Batcher(self._engines, contract, plan, self.metrics, costs)
        self.breaker = Breaker(plan.breaker_failures, plan.breaker_seconds, changed=self._breaker_turned)
        self.batcher.on_run = self.breaker.ran
        self.cache = _cache(manifest, settings, self.metrics)
        self._fallback = Fallback(plan, contract, self.cache)
        self._capture, self._tracer = _capture(manifest, settings, self.metrics), None
        self.tokenize = _tokenizer(folder, contract)
        self._dynamic = [field.name for field in contract.inputs if field.any_length]
        self._log = logs.Limited(logger)
        self._background: set[asyncio.Task] = set()
        self._grpc: Any = None
        self.is_ready = False

    async def start(self) -> None:
        """Open what needs the event loop; from here on the release is ready."""
        if self._settings.traces:
            from bentos.watching.traces import tracer

            self._tracer = tracer(self.manifest, self._settings)
        if self._settings.grpc_port:
            from bentos.inference.grpc_server import serve_grpc

            self._grpc = await serve_grpc(self, self._settings.grpc_port)
        # What is loaded by now stays: the collector need not look at it again, ms at a time.
        gc.collect()
        gc.freeze()
        self.is_ready = True

    def unready(self) -> None:
        """Say that no more requests should be sent here; those that come are still answered."""
        self.is_ready = False

    async def close(self) -> None:
        """Answer what is here, then end threads and connections."""
        self.unready()
        if self._grpc is not None:
            await self._grpc.stop(self.manifest.plan.max_latency_ms / 1000)
        await asyncio.gather(*self._background)
        await self.batcher.drain()
        self.batcher.close()
        for engine in self._engines:
            engine.close()
        for closes in (self.cache, self._tracer):
            if closes is not None:
                await closes.close()
        if self._capture is not None:
            await asyncio.to_thread(self._capture.close)

    def ask(
        self,
        way: Way,
        *,
        done: Callable[[Job], None],
        rows: list[dict[str, Any]] | None = None,
        feeds: Tensors | None = None,
        request_id: str = "",
        timeout_seconds: float | None = None,
        trace: Mapping[bytes, bytes] | None = None,
    ) -> Job:
        """Predict `rows`, validated and tokenized, or `feeds`, encoded. `done` is called once, on the event
        loop, perhaps before this returns. Raises TooLarge."""
        now = time.monotonic()
        size = len(rows) if rows is not None else len(next(iter((feeds or {}).values())))
        self.check_rows(size)
        length = self._length(rows, feeds)
        limit = timeout_seconds
        if limit is None:
            limit = self.manifest.plan.max_latency_ms / 1000
            limit += self._forecast.drain(size, length) if size > 1 else 0.0
        job = Job(self._finished, size, now + limit, now, rows, feeds, length, request_id)
        job.way, job.reply, job.trace = way, done, trace
        if self.cache is None:
            self._submit(job)
        else:
            self._look_up(self.cache, job)
        return job

    async def answer(self, rows: list[dict[str, Any]]) -> Tensors:
        """The outputs for validated rows. Raises Refusal."""
        back: asyncio.Future[Job] = asyncio.get_running_loop().create_future()

        def done(job: Job) -> None:
            if not back.done():
                back.set_result(job)

        job = self.ask("predict", rows=await asyncio.to_thread(self.tokenized, rows), done=done)
        try:
            await back
        except asyncio.CancelledError:
            self.cancel(job)
            raise
        if job.refusal is not None:
            raise job.refusal
        assert job.outputs is not None
        return job.outputs

    def cancel(self, job: Job) -> None:
        """The client left."""
        self.batcher.cancel(job)

    def check_rows(self, number: int) -> None:
        """Raises TooLarge for more rows than one request may have."""
        most = self.manifest.plan.max_request_rows
        if number > most:
            raise TooLarge("the number of rows", number, most)

    def refused(self, way: Way, refusal: Refusal) -> None:
        """Count a request that became no job."""
        self.metrics.request(way, refusal.outcome, 0.0)

    def tokenized(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows with the token inputs beside the text, for the prediction log to keep. Raises Invalid for a
        text that has no tokens."""
        text = self.manifest.contract.text
        if text is None or self.tokenize is None:
            return rows
        said = [at for at, row in enumerate(rows) if text.name in row]
        try:
            tokens = self.tokenize([rows[at][text.name] for at in said])
        except Invalid as error:
            raise Invalid(["rows", said[int(error.where[0])], text.name], error.reason) from error
        for at, found in zip(said, tokens, strict=True):
            rows[at].update(found)
        return rows

    def parse(
        self,
        size_bytes: int,
        parse: Callable[[], Parsed],
        then: Callable[[Parsed], Job],
        failed: Callable[[Exception], None],
    ) -> Job | None:
        """`then(parse())`, here and now; but with many texts `parse` in a thread, as the tokenizer would stop
        the event loop for seconds. What it raises there goes to `failed`."""
        if self.tokenize is None or size_bytes <= LARGE_BYTES:
            return self._parsed(then, *_timed(parse))
        self._later(self._parse_apart(parse, then, failed))
        return None

    async def _parse_apart(self, parse: Callable, then: Callable, failed: Callable) -> None:
        try:
            self._parsed(then, *await asyncio.to_thread(_timed, parse))
        except Exception as error:  # noqa: BLE001  handed on, as the caller would have had it
            failed(error)

    def _parsed(self, then: Callable[[Parsed], Job], found: Parsed, seconds: float) -> Job:
        self.metrics.stage("parse", seconds)
        return then(found)

    def _length(self, rows: list[dict[str, Any]] | None, feeds: Tensors | None) -> int:
        if not self._dynamic:
            return 0
        if rows is not None:
            return max(len(row[name]) for row in rows for name in self._dynamic)
        return max((feeds or {})[name].shape[1] for name in self._dynamic)

    def _look_up(self, cache: Cache, job: Job) -> None:
        job.key = cache.key(job)
        found = cache.get(job.key)
        if found is not None:
            self._give(job, found)
        elif cache.redis is None:
            self._submit(job)
        else:
            self._later(self._look_up_far(cache, job))

    async def _look_up_far(self, cache: Cache, job: Job) -> None:
        assert job.key is not None
        found = await cache.fetch(job.key)
        if job.cancelled:
            job.refusal = Left()
            self._finished(job)
        elif found is None:
            self._submit(job)
        else:
            self._give(job, found)

    def _give(self, job: Job, outputs: Tensors) -> None:
        job.outputs = outputs
        self._finished(job)

    def _submit(self, job: Job) -> None:
        if self.breaker.allows():
            return self.batcher.submit(job)
        outputs = self._fallback.answer(job)
        if outputs is None:
            job.refusal = Unavailable("the model has been failing and is given a rest")
        else:
            job.fallback = self.manifest.plan.fallback
            job.outputs = outputs
        self._finished(job)

    def _finished(self, job: Job) -> None:
        try:
            self._note(job)
        finally:  # whatever that cost, the client gets its answer
            if job.reply is not None:
                began = time.monotonic()
                job.reply(job)
                self.metrics.stage("respond", time.monotonic() - began)

    def _note(self, job: Job) -> None:
        now, refusal = time.monotonic(), job.refusal
        outcome = "ok" if refusal is None else refusal.outcome
        self.metrics.request(job.way, outcome, now - job.arrived)  # pyright: ignore[reportArgumentType]
        if refusal is not None and outcome != "client_error":
            cause = type(refusal.__cause__).__name__ if refusal.__cause__ else None
            self._log.log(logging.WARNING, type(refusal).__name__, request_id=job.request_id, cause=cause)
        if job.outputs is not None and job.started:
            self._remember(job)
        if self._capture is not None and job.outputs is not None:
            self._capture.offer(job)
        if self._tracer is not None:
            self._tracer.finished(job, outcome)
        if ACCESS.isEnabledFor(logging.INFO):
            said = {"request_id": job.request_id, "way": job.way, "outcome": outcome, "rows": job.size}
            ACCESS.info("answered", extra={**said, "ms": round((now - job.arrived) * 1000, 3)})

    def _remember(self, job: Job) -> None:
        if self.cache is not None and job.key is not None and job.outputs is not None:
            self.cache.put(job.key, job.outputs)
            if self.cache.redis is not None:
                self._later(self.cache.share(job.key, job.outputs))

    def _later(self, work) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _breaker_turned(self, is_open: bool) -> None:
        self.metrics.breaker(is_open)
        logger.warning("the circuit breaker is %s", "open" if is_open else "closed again")


def _timed(parse: Callable[[], Parsed]) -> tuple[Parsed, float]:
    began = time.monotonic()
    found = parse()
    return found, time.monotonic() - began


def _cache(manifest: Manifest, settings: Settings, metrics: Metrics) -> Cache | None:
    plan = manifest.plan
    if not plan.cache_seconds:
        return None
    return Cache(
        manifest.release_id, plan.cache_seconds, plan.cache_entries, metrics, redis_url=settings.redis_url
    )


def _capture(manifest: Manifest, settings: Settings, metrics: Metrics):
    if settings.capture_folder is None:
        return None
    from bentos.watching.capture import Capture

    return Capture(settings, manifest, metrics)


def _tokenizer(folder: Path, contract: Contract):
    """Texts to rows of token tensors, where a tokenizer is packed."""
    if contract.text is None:
        return None
    from bentos.inference.tokens import Tokenizer

    return Tokenizer(folder / contract.text.file, contract.text).rows
