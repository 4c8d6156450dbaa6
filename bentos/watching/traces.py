"""OpenTelemetry spans of requests, sent by OTLP over HTTP. Where no exporter is configured, nothing is
imported and nothing is done per request.

A request's spans are made at once when it has been answered, from the times that its job holds anyway:

    predict                   server span, child of the client's `traceparent`
    ├── queue                 waiting for a batch
    └── model                 the batch in the model
"""

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from bentos.errors import Outcome
from bentos.manifest import Manifest
from bentos.settings import Settings
from bentos.work import Job

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

FLUSH_SECONDS = 2.0
"""How long the last spans may take when the service ends."""
PARENT = (b"traceparent", b"tracestate")
SERVER_FAULTS = ("model_error", "shed", "infrastructure")


class Tracer:
    """Makes the spans of requests and hands them to the SDK's background thread, which drops what a slow
    collector does not take. Sampling follows the caller, or OTEL_TRACES_SAMPLER."""

    def __init__(self, provider: "TracerProvider", manifest: Manifest) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace, self._provider = trace, provider
        self._extract = TraceContextTextMapPropagator().extract
        self._tracer = provider.get_tracer("seatrial")
        self._release = {f"seatrial.{name}": value for name, value in manifest.identity.items()}

    def finished(self, job: Job, outcome: Outcome) -> None:
        """Make the spans of a job that has just been answered."""
        now = time.monotonic()
        offset = time.time() - now
        given = job.trace or {}
        headers = {name.decode(): given[name].decode("latin-1") for name in PARENT if name in given}
        span = self._tracer.start_span(
            job.way,
            self._extract(headers),
            kind=self._trace.SpanKind.SERVER,
            attributes={
                **self._release,
                "seatrial.request_id": job.request_id,
                "seatrial.outcome": outcome,
                "seatrial.rows": job.size,
            },
            start_time=_nanoseconds(job.arrived + offset),
        )
        if span.is_recording() and job.started:
            inside, finished = self._trace.set_span_in_context(span), job.finished or now
            for name, start, end in (("queue", job.arrived, job.started), ("model", job.started, finished)):
                part = self._tracer.start_span(name, inside, start_time=_nanoseconds(start + offset))
                part.end(_nanoseconds(end + offset))
        if outcome in SERVER_FAULTS:
            span.set_status(self._trace.StatusCode.ERROR, outcome)
        span.end(_nanoseconds(now + offset))

    async def close(self) -> None:
        """Send what is left; a collector that does not answer is not waited for."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        await asyncio.to_thread(last.join, FLUSH_SECONDS)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def tracer(manifest: Manifest, settings: Settings) -> Tracer | None:
    """A tracer if the settings want one. The exporter reads its OTEL_EXPORTER_OTLP_ variables itself."""
    if not settings.traces:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = Resource.create({"service.name": manifest.model, "service.version": manifest.version})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracer(provider, manifest)
