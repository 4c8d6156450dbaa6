"""What passes between those who carry HTTP (`lane`, `asgi`) and those who know what to say (`front`)."""

import os
import re
import zlib
from collections.abc import Callable, Mapping
from itertools import count
from typing import NamedTuple

from bentos.errors import Invalid, TooLarge, Unsupported

Head = Mapping[bytes, bytes]
"""A request's headers by their names in lower case."""

JSON = b"application/json"
PLAIN_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_PROCESS, _NUMBERS = os.urandom(8).hex(), count()


class Answer(NamedTuple):
    """`chunks` are written one after the other; `headers` come on top of those that all answers have."""

    status: int
    request_id: bytes
    chunks: tuple[bytes | memoryview, ...]
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


Reply = Callable[[Answer], None]


def request_id(head: Head) -> bytes:
    """The client's own `x-request-id` where it is short and printable, else a new one of 32 characters."""
    given = head.get(b"x-request-id")
    if given is not None and PLAIN_ID.fullmatch(given):
        return given
    return b"%b%016x" % (_PROCESS.encode(), next(_NUMBERS))


def timeout_seconds(head: Head) -> float | None:
    """How long the client is going to wait, from `x-timeout-ms` or from what Envoy allows. Raises Invalid."""
    given = head.get(b"x-timeout-ms") or head.get(b"x-envoy-expected-rq-timeout-ms")
    if given is None:
        return None
    if not re.fullmatch(rb"[0-9]{1,9}", given) or int(given) == 0:
        raise Invalid(["x-timeout-ms"], "must be whole milliseconds, at least 1")
    return int(given) / 1000


def plain(head: Head, body: bytes, limit: int) -> bytes:
    """The body without its compression. Raises Unsupported, Invalid, and TooLarge for what grows too far."""
    encoding = head.get(b"content-encoding", b"identity").lower()
    if encoding == b"identity":
        return body
    if encoding not in (b"gzip", b"deflate"):
        raise Unsupported("the content encodings spoken here are gzip and deflate")
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either header
    try:
        found = inflate.decompress(body, limit + 1)
    except zlib.error as error:
        raise Invalid([], f"the body is not valid {encoding.decode()}") from error
    if len(found) > limit:
        raise TooLarge("the body", None, limit)
    if not inflate.eof:
        raise Invalid([], "the compressed body is cut off")
    return found
