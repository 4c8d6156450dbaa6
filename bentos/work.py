"""One request's rows on their way to the model and back: what every way in hands to the batcher."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bentos.errors import Refusal

Tensors = Mapping[str, np.ndarray]


@dataclass(slots=True, eq=False)
class Job:
    """Either `rows`, validated JSON objects that are encoded together with their batch, or `feeds`, encoded
    tensors. Exactly one of `outputs` and `refusal` is set when `done` is called, once, on the event loop.

    size       rows
    length     the longest of its rows along a dimension of any length; 0 where the contract has none
    deadline, arrived, started, finished   seconds on the monotonic clock
    cancelled  its client left: it is dropped before the model sees it, and `done` gets `Left`
    way        how it came in, as metrics count it
    reply      whom to tell when all that concerns the release has been done with the answer
    key        what the cache knows it by, where there is one
    fallback   "cached" or "default" when the answer is not the model's
    trace      the headers of the request, from which a trace goes on and the log knows the user
    """

    done: Callable[["Job"], None]
    size: int
    deadline: float
    arrived: float
    rows: list[dict[str, Any]] | None = None
    feeds: Tensors | None = None
    length: int = 0
    request_id: str = ""
    outputs: Tensors | None = None
    refusal: Refusal | None = None
    started: float = 0.0
    finished: float = 0.0
    cancelled: bool = False
    way: str = ""
    reply: Callable[["Job"], None] | None = None
    key: bytes | None = None
    fallback: str = ""
    trace: Mapping[bytes, bytes] | None = None
