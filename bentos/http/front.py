"""The HTTP interface of a release: from the bytes of a request to those of its answer, whoever carries them.

`lane` calls it from uvicorn's protocol, `asgi` from an ordinary ASGI application. A handler is a plain
function that ends in `reply`, at once or when the batch is back: no task and no future for each request.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import orjson
from pydantic import ConfigDict, FailFast, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from bentos.contract import MAX_SHOWN
from bentos.errors import Invalid, NotFound, Refusal, Unavailable, Unsupported, refusal_of
from bentos.http.messages import JSON, Answer, Head, Reply, plain, request_id, timeout_seconds
from bentos.inference import protocol
from bentos.inference.asked import Asked
from bentos.openapi import html
from bentos.release import Release
from bentos.schema import predictions, row_type
from bentos.watching.metrics import Way
from bentos.work import Job

TAKEN_FOR_JSON = (b"application/json", b"application/x-www-form-urlencoded")
"""The latter is what `curl -d` says of everything."""
HTML_TYPE = b"text/html; charset=utf-8"
METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
BINARY_TYPE = b"application/octet-stream"
HEADER_LENGTH = b"inference-header-content-length"
SMALL_BYTES = 4096
"""All mistakes that fit in here are told in a few ms."""
MAX_DETAILS = 20
"""Of one refusal."""

Handler = Callable[[Head, bytes, Reply], Job | None]


class Front:
    """Routes and handlers of one release. A handler returns the job that it started, if any, for whoever
    carries the request to cancel when the client leaves. `page` is the release's OpenAPI page."""

    def __init__(self, release: Release, page: dict[str, Any]) -> None:
        self.release, manifest = release, release.manifest
        self.max_body_bytes = manifest.plan.max_body_bytes
        self.stamp = (
            (b"x-model-version", manifest.version.encode()),
            (b"x-release-id", manifest.release_id.encode()),
        )
        # A mistake in each of a million rows would take minutes and gigabytes to tell.
        rows: Any = Annotated[list[row_type(manifest.contract)], FailFast()]
        body: Any = TypedDict("Body", {"rows": rows})  # pyright: ignore
        body.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
        self._validator = TypeAdapter(body).validator
        text = manifest.contract.text
        self._most_keys = len(manifest.contract.inputs) + (text is not None)
        self._routes = self._known_routes(orjson.dumps(protocol.metadata(manifest)))
        self._routes[b"GET", b"/docs.json"] = self._fixed(orjson.dumps(page))
        self._routes[b"GET", b"/"] = self._fixed(html(manifest).encode(), HTML_TYPE)

    def handler(self, method: bytes, path: bytes, content_type: bytes) -> Handler | None:
        """Who answers; None leaves the request to BentoML's own application."""
        found = self._routes.get((b"GET" if method == b"HEAD" else method, path))
        if found is None:
            return self._not_found if path.startswith(b"/v2/") else None
        json = not content_type or content_type.lower().startswith(TAKEN_FOR_JSON)
        return found if json or found != self._predict else self._not_json

    def refused(self, refusal: Refusal, name: bytes, way: Way | None) -> Answer:
        """The answer to request `name` that says why it became no job."""
        if way is not None:
            self.release.refused(way, refusal)
        return self._refusal(refusal, name)

    def _refusal(self, refusal: Refusal, name: bytes) -> Answer:
        said: dict[str, Any] = {"error": str(refusal)}
        if isinstance(refusal, Invalid):
            said["detail"] = refusal.details
        after = refusal.retry_after_seconds
        headers = () if after is None else ((b"retry-after", b"%d" % after),)
        return Answer(refusal.status, name, (orjson.dumps(said),), headers=headers)

    def call(self, handler: Handler, head: Head, body: bytes, reply: Reply) -> Job | None:
        """Run a handler; whatever it raises is answered."""
        try:
            return handler(head, body, reply)
        except Exception as error:  # noqa: BLE001  a mistake of ours fails one request, not the service
            self._failed(handler, head, reply, error)
        return None

    def _failed(self, handler: Handler, head: Head, reply: Reply, error: Exception) -> None:
        name = request_id(head)
        reply(self.refused(refusal_of(error, name.decode()), name, self.way(handler, head)))

    def way(self, handler: Handler | None, head: Head) -> Way | None:
        """As metrics count it; None for what asks for no prediction."""
        if handler in (self._predict, self._not_json):
            return "predict"
        return _v2_way(head) if handler == self._infer else None

    def _known_routes(self, metadata: bytes) -> dict[tuple[bytes, bytes], Handler]:
        manifest = self.release.manifest
        model = b"/v2/models/" + manifest.model.encode()
        routes: dict[tuple[bytes, bytes], Handler] = {
            (b"POST", b"/predict"): self._predict,
            (b"GET", b"/metrics"): self._metrics,
            (b"GET", b"/v2"): self._fixed(orjson.dumps(protocol.server_metadata())),
            (b"GET", b"/v2/health/live"): self._fixed(b'{"live":true}'),
            (b"GET", b"/v2/health/ready"): self._ready,
        }
        for path in (model, model + b"/versions/" + manifest.version.encode()):
            routes[b"GET", path] = self._fixed(metadata)
            routes[b"GET", path + b"/ready"] = self._ready
            routes[b"POST", path + b"/infer"] = self._infer
        return routes

    def _predict(self, head: Head, body: bytes, reply: Reply) -> Job | None:
        return self._parsed(self._predict, self._rows, self._ask_rows, head, body, reply)

    def _infer(self, head: Head, body: bytes, reply: Reply) -> Job | None:
        return self._parsed(self._infer, self._asked, self._ask_feeds, head, body, reply)

    def _parsed(
        self, handler: Handler, parse: Callable, ask: Callable, head: Head, body: bytes, reply: Reply
    ) -> Job | None:
        name, timeout = request_id(head), timeout_seconds(head)
        return self.release.parse(
            len(body),
            partial(parse, head, body),
            partial(ask, head, reply, name, timeout),
            partial(self._failed, handler, head, reply),
        )

    def _rows(self, head: Head, body: bytes) -> list[dict[str, Any]]:
        content = plain(head, body, self.max_body_bytes)
        try:
            if len(content) <= SMALL_BYTES:
                rows = self._validator.validate_json(content)["rows"]
            else:
                rows = self._validator.validate_python(self._bounded(content))["rows"]
        except ValidationError as error:
            raise _invalid(error) from error
        if not rows:
            raise Invalid(["rows"], "List should have at least 1 item", "too_short")
        self.release.check_rows(len(rows))
        return self.release.tokenized(rows)

    def _bounded(self, content: bytes) -> Any:
        """A body in which not much can be wrong: it has no more rows and keys than the contract knows. To
        tell a mistake takes hundreds of times as long as to make it."""
        try:
            given = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise Invalid([], "the body is not valid JSON", "json_invalid") from error
        if not isinstance(given, dict) or given.keys() != {"rows"} or not isinstance(given["rows"], list):
            raise Invalid(["rows"], "must be a list, and all that is given")
        self.release.check_rows(len(given["rows"]))
        for at, row in enumerate(given["rows"]):
            if isinstance(row, dict) and len(row) > self._most_keys:
                raise Invalid(["rows", at], f"has {len(row)} keys, a row has {self._most_keys}")
        return given

    def _ask_rows(self, head: Head, reply: Reply, name: bytes, timeout: float | None, rows: list) -> Job:
        return self.release.ask(
            "predict",
            rows=rows,
            request_id=name.decode(),
            timeout_seconds=timeout,
            done=partial(self._predicted, reply, name),
            trace=head,
        )

    def _predicted(self, reply: Reply, name: bytes, job: Job) -> None:
        if job.refusal is not None:
            return reply(self._refusal(job.refusal, name))
        assert job.outputs is not None
        body = orjson.dumps(predictions(job.outputs))
        reply(Answer(200, name, (body,), headers=_fallback(job)))

    def _asked(self, head: Head, body: bytes) -> Asked:
        manifest = self.release.manifest
        return protocol.decode(
            plain(head, body, self.max_body_bytes),
            _header_length(head),
            manifest.contract,
            self.release.tokenize,
            manifest.plan.max_request_rows,
        )

    def _ask_feeds(self, head: Head, reply: Reply, name: bytes, timeout: float | None, asked: Asked) -> Job:
        return self.release.ask(
            _v2_way(head),
            feeds=asked.feeds,
            request_id=name.decode(),
            timeout_seconds=asked.within(timeout),
            done=partial(self._inferred, reply, name, asked),
            trace=head,
        )

    def _inferred(self, reply: Reply, name: bytes, asked: Asked, job: Job) -> None:
        if job.refusal is not None:
            return reply(self._refusal(job.refusal, name))
        assert job.outputs is not None
        manifest = self.release.manifest
        chunks, length = protocol.encode(asked, job.outputs, manifest.model, manifest.version)
        if length is None:
            return reply(Answer(200, name, tuple(chunks), headers=_fallback(job)))
        headers = ((HEADER_LENGTH, b"%d" % length), *_fallback(job))
        reply(Answer(200, name, tuple(chunks), BINARY_TYPE, headers))

    def _ready(self, head: Head, body: bytes, reply: Reply) -> None:
        if not self.release.is_ready:
            raise Unavailable("the service is starting or ending")
        reply(Answer(200, request_id(head), (b'{"ready":true}',)))

    def _metrics(self, head: Head, body: bytes, reply: Reply) -> None:
        reply(Answer(200, request_id(head), (self.release.metrics.render(),), METRICS_TYPE))

    def _not_json(self, head: Head, body: bytes, reply: Reply) -> None:
        raise Unsupported("the content type spoken here is application/json")

    def _not_found(self, head: Head, body: bytes, reply: Reply) -> None:
        raise NotFound("there is no such model, version or path here")

    @staticmethod
    def _fixed(body: bytes, content_type: bytes = JSON) -> Handler:
        return lambda head, _, reply: reply(Answer(200, request_id(head), (body,), content_type))


def _header_length(head: Head) -> int | None:
    """How much of the body is JSON; None: all of it."""
    given = head.get(HEADER_LENGTH)
    if given is None:
        return None
    if not re.fullmatch(rb"[0-9]{1,12}", given):
        raise Invalid([HEADER_LENGTH.decode()], "must be a number of bytes")
    return int(given)


def _fallback(job: Job) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"x-fallback", job.fallback.encode()),) if job.fallback else ()


def _v2_way(head: Head) -> Way:
    return "v2_json" if head.get(HEADER_LENGTH) is None else "v2_binary"


def _invalid(error: ValidationError) -> Invalid:
    """Each value that breaks the contract, by its place."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_DETAILS]
    for each in found:
        each["loc"] = tuple(part[:MAX_SHOWN] if isinstance(part, str) else part for part in each["loc"])
    return Invalid(found[0]["loc"], found[0]["msg"], details=found)  # pyright: ignore[reportArgumentType]
