"""How a release is served and what is promised about it: the section `serving` of defs.yaml.

How many processes, threads, rows in a batch and in the queue: where the settings do not say, it is derived
from what was measured, so that the promise holds at twice the expected peak with the fewest cores.
"""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipelines.core.spec.base import Device, Settings, fractions, positives

MOST_DRAIN_SECONDS = 10
"""What is in flight has to be answered too before the supervisor kills a service, 20 s after it told it to
end."""

Fallback = Literal["none", "cached", "default"]


class ServingSpec(Settings):
    """How the release is served and what is promised about it."""

    path: str = Field(
        default="/", description="Where the model answers below the shared address, e.g. /churn."
    )
    text_field: str = Field(
        default="text",
        description="The key of a text in requests and data, where a tokenizer.json was registered.",
    )

    # What is promised, and tried in the load test.
    p99_ms: float = Field(
        default=100.0, description="The p99 of a request in the load test, from its intended start."
    )
    max_error_rate: float = Field(
        default=0.001, description="The share of requests that may fail in the load test."
    )
    expected_peak_rps: float = Field(
        default=50.0, description="Requests a second; the promise has to hold at twice as many."
    )
    load_seconds: float = Field(
        default=10.0,
        description="Length of the load test's stage at twice the peak; others are half as long.",
    )
    load_from: Literal["reference", "prediction_log"] = Field(
        default="reference",
        description="What the load test sends: rows of the reference, or those that production was sent.",
    )
    soak_seconds: float = Field(
        default=10.0,
        description="How long the load test looks for leaks, at half of the service's limit.",
    )
    price_per_core_hour: float | None = Field(
        default=None, description="What one core costs for an hour, in any currency, for the report."
    )

    # Where the model runs.
    runtime: Literal["process", "container"] = Field(
        default="process",
        description="As processes of this machine, or in containers from an image that is built and checked.",
    )
    memory_megabytes: float | None = Field(
        default=None,
        description="What a container may use at most, in units of 2**20 bytes; none: twice what the load "
        "test measured, rounded up to a power of two.",
    )
    max_image_megabytes: float = Field(
        default=2048.0, description="How large a container image may be, in units of 2**20 bytes."
    )
    device: Device = Field(
        default="cpu", description="Where the model runs; nothing falls back from cuda to the CPU in silence."
    )
    cores: int | None = Field(
        default=None, description="Cores that the plan may use at most; none: those of this machine."
    )
    threads: int | None = Field(
        default=None, description="Intra-op threads of an ONNX Runtime session; none: derived."
    )
    workers: int | None = Field(
        default=None, description="Processes of the service, each with its own queue; none: derived."
    )
    replicas: int | None = Field(
        default=None,
        description="Sessions in a process, each with its own thread; they share the device. None: derived.",
    )

    # Batching.
    max_batch_size: int | None = Field(default=None, description="Rows in one model run; none: derived.")
    padded_batch_sizes: list[int] = Field(
        default=[],
        description="Batches are filled up to one of these sizes, for CUDA graphs; none: as they come.",
    )
    lengths: list[int] | None = Field(
        default=None,
        description="Upper ends of the length buckets, where the model takes any length: rows of one bucket "
        "share a batch. None: powers of two up to the longest row of the reference.",
    )

    # What is let in.
    max_latency_ms: float | None = Field(
        default=None,
        description="The deadline of a request that names none; a request that would be later is refused "
        "429 at once. One of many rows has the time that they take on top. None: p99_ms, what was promised.",
    )
    max_queue_rows: int | None = Field(
        default=None,
        description="Rows that may wait; none: as many as can be answered within max_latency_ms.",
    )
    max_request_rows: int = Field(default=10_000, description="Rows of one request; more are refused 413.")
    max_body_megabytes: float = Field(
        default=16.0, description="Size of one request, unpacked, in units of 2**20 bytes; more is 413."
    )

    max_rps: float | None = Field(
        default=None,
        description="Requests a second that the router lets in; more are refused 429. None: as many as come.",
    )

    # What else may answer.
    cache_seconds: float = Field(
        default=0.0, description="How long an answer may be repeated for the same input; 0: no cache."
    )
    cache_entries: int = Field(default=10_000, description="Rows that the cache of a process holds.")
    fallback: Fallback = Field(
        default="none",
        description="While the circuit breaker is open: none (503), cached (an earlier answer to the same "
        "input, however old) or default (default_answer).",
    )
    default_answer: dict[str, Any] | None = Field(
        default=None, description="The {output: value} that `fallback: default` answers each row with."
    )
    breaker_failures: int = Field(
        default=20, description="Model runs that fail one after the other and open the circuit breaker."
    )
    breaker_seconds: float = Field(
        default=5.0, description="How long the circuit breaker stays open before one batch is tried."
    )

    # Around it.
    capture_share: float = Field(
        default=1.0, description="The share of requests in production that go to the prediction log."
    )
    drain_seconds: float = Field(
        default=1.0,
        description="How long a service that was told to end still listens, /readyz failing, so that "
        "routers turn away.",
    )

    _are_fractions = fractions("max_error_rate")
    _are_positive = positives(
        "p99_ms", "expected_peak_rps", "load_seconds", "soak_seconds", "price_per_core_hour", "cores",
        "threads", "workers", "replicas", "max_batch_size", "padded_batch_sizes", "lengths", "max_latency_ms",
        "max_queue_rows", "max_request_rows", "max_rps", "max_body_megabytes", "cache_entries",
        "breaker_failures", "breaker_seconds",
    )  # fmt: skip

    @field_validator("path")
    @classmethod
    def _is_path(cls, path: str) -> str:
        if not re.fullmatch(r"/[A-Za-z0-9._~/-]*", path):
            raise ValueError(f"must start with / and hold no spaces, e.g. /churn, not {path!r}")
        return path.rstrip("/") or "/"

    @field_validator("lengths", "padded_batch_sizes")
    @classmethod
    def _ascend(cls, sizes: list[int] | None) -> list[int] | None:
        if sizes is not None and sizes != sorted(set(sizes)):
            raise ValueError(f"must ascend, e.g. [16, 32, 64], not {sizes}")
        return sizes

    @field_validator("capture_share")
    @classmethod
    def _is_share(cls, share: float) -> float:
        if not 0 <= share <= 1:
            raise ValueError(f"is a share from 0 to 1, e.g. 0.1, not {share:g}")
        return share

    @field_validator("cache_seconds")
    @classmethod
    def _is_no_debt(cls, seconds: float) -> float:
        if seconds < 0:
            raise ValueError(f"must be at least 0, which is no cache, not {seconds:g}")
        return seconds

    @field_validator("drain_seconds")
    @classmethod
    def _is_short(cls, seconds: float) -> float:
        if not 0 <= seconds <= MOST_DRAIN_SECONDS:
            raise ValueError(f"must be from 0 to {MOST_DRAIN_SECONDS}, not {seconds:g}")
        return seconds

    @model_validator(mode="after")
    def _padded_sizes_hold_every_batch(self) -> "ServingSpec":
        if self.padded_batch_sizes and self.padded_batch_sizes[-1] != self.max_batch_size:
            most = self.max_batch_size or "which is not set"
            raise ValueError(
                f"padded_batch_sizes must end with max_batch_size, {most}, "
                f"not with {self.padded_batch_sizes[-1]}"
            )
        return self

    @model_validator(mode="after")
    def _containers_have_no_gpu(self) -> "ServingSpec":
        if self.runtime == "container" and self.device != "cpu":
            raise ValueError("runtime: container serves from the CPU, so set device: cpu or runtime: process")
        return self

    @model_validator(mode="after")
    def _fallback_has_an_answer(self) -> "ServingSpec":
        if self.fallback == "default" and self.default_answer is None:
            raise ValueError("fallback: default needs default_answer, e.g. {probability: 0.5}")
        if self.fallback != "default" and self.default_answer is not None:
            raise ValueError("default_answer is for fallback: default, so set that or leave it out")
        if self.fallback == "cached" and not self.cache_seconds:
            raise ValueError("fallback: cached answers from the cache, so set cache_seconds, e.g. 60")
        return self
