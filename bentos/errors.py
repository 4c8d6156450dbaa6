"""Why a request gets no prediction. Each error writes the one sentence that its client reads, and nothing of
our insides.

    Refusal
    ├── Invalid            400  the request breaks the contract; `where` is the path to the value
    ├── NotFound           404  no such model, version or path
    ├── Unsupported        415  a content type or encoding that is not spoken here
    ├── TooLarge           413  more bytes or rows than are allowed
    ├── TooSlow            408  the request did not arrive in time
    ├── Overloaded         429  it would be answered too late; says when to come back
    ├── Broken             500  a mistake of ours
    ├── Expired            504  its deadline passed while it waited
    ├── Unavailable        503  starting, draining, or the circuit breaker is open
    ├── ModelFailed        502  the model raised, or answered NaN or the wrong number of rows
    └── Left               499  the client went away; nobody reads this
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

logger = logging.getLogger(__name__)

Outcome = Literal["ok", "client_error", "model_error", "shed", "infrastructure"]


class Refusal(Exception):
    """`status` is the HTTP status, `outcome` what metrics count, `grpc` the name of the gRPC status code."""

    status: ClassVar[int]
    outcome: ClassVar[Outcome]
    grpc: ClassVar[str]
    retry_after_seconds: int | None = None


class Invalid(Refusal):
    """`details` has all that is wrong, as pydantic tells it, where that is more than this one thing."""

    status, outcome, grpc = 400, "client_error", "INVALID_ARGUMENT"

    def __init__(
        self,
        where: Sequence[str | int],
        reason: str,
        kind: str = "value_error",
        details: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(f"{'.'.join(map(str, where)) or 'request'}: {reason}")
        self.where, self.reason = list(where), reason
        self.details = list(details) or [{"type": kind, "loc": self.where, "msg": reason}]


class NotFound(Refusal):
    status, outcome, grpc = 404, "client_error", "NOT_FOUND"


class Unsupported(Refusal):
    status, outcome, grpc = 415, "client_error", "UNIMPLEMENTED"


class TooLarge(Refusal):
    status, outcome, grpc = 413, "client_error", "RESOURCE_EXHAUSTED"

    def __init__(self, what: str, found: int | None, limit: int) -> None:
        found_text = "" if found is None else f" of {found}"
        super().__init__(f"{what}{found_text} is over the limit of {limit}")


class TooSlow(Refusal):
    status, outcome, grpc = 408, "client_error", "DEADLINE_EXCEEDED"


class Overloaded(Refusal):
    status, outcome, grpc = 429, "shed", "RESOURCE_EXHAUSTED"

    def __init__(self, wait_ms: float, limit_ms: float) -> None:
        super().__init__(f"would take about {wait_ms:.0f} ms, allowed are {limit_ms:.0f} ms")
        self.retry_after_seconds = max(1, round(wait_ms / 1000))


class Broken(Refusal):
    status, outcome, grpc = 500, "infrastructure", "INTERNAL"

    def __init__(self) -> None:
        super().__init__("the service failed to handle this request")


class Expired(Refusal):
    status, outcome, grpc = 504, "shed", "DEADLINE_EXCEEDED"

    def __init__(self) -> None:
        super().__init__("the deadline passed while the request waited")


class Unavailable(Refusal):
    status, outcome, grpc = 503, "infrastructure", "UNAVAILABLE"

    def __init__(self, reason: str, retry_after_seconds: int = 1) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class ModelFailed(Refusal):
    status, outcome, grpc = 502, "model_error", "INTERNAL"

    def __init__(self) -> None:
        super().__init__("the model could not answer this request")


class Left(Refusal):
    status, outcome, grpc = 499, "client_error", "CANCELLED"

    def __init__(self) -> None:
        super().__init__("the client left")


def refusal_of(error: BaseException, request_id: str = "") -> Refusal:
    """What a client reads of an error. One that is no refusal is a mistake of ours, and logged."""
    if isinstance(error, Refusal):
        return error
    logger.error("a request failed", exc_info=error, extra={"request_id": request_id})
    return Broken()
