"""What Prometheus sees, exact over all worker processes of the service.

Every series is known beforehand, so each has a fixed place among the shared counts and to count is one
addition there: a tenth of what prometheus_client takes in several processes. It still writes the text.
"""

import itertools
import threading
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from bentos.errors import Outcome
from bentos.watching.counts import Counts

Way = Literal["predict", "v2_json", "v2_binary", "grpc", "http"]
"""http: a request over HTTP that was refused before it was known what it asks for."""
Stage = Literal["parse", "queue", "assemble", "model", "respond"]
CacheResult = Literal["hit", "miss", "stale", "error"]
Failure = Literal["raised", "not_finite", "wrong_rows"]

# fmt: off
SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
           2.5, 5.0, 10.0, 30.0)
# fmt: on
ROWS = tuple(float(2**power) for power in range(15))


class Family(NamedTuple):
    """Metrics of one name: one series for each of `values`; `bounds` are the buckets of a histogram."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ((),)
    bounds: tuple[float, ...] = ()


def _each(*kinds) -> tuple[tuple[str, ...], ...]:
    return tuple(itertools.product(*map(get_args, kinds)))


# fmt: off
FAMILIES = (
    Family("counter", "requests", "Requests by the way they came in and their outcome.", ("way", "outcome"),
           _each(Way, Outcome)),
    Family("histogram", "request_seconds", "From the arrival of a request to its answer.", ("way",),
           _each(Way), SECONDS),
    Family("histogram", "stage_seconds", "Parts of a request; assemble and model are once a batch.",
           ("stage",), _each(Stage), SECONDS),
    Family("histogram", "queue_wait_seconds", "How long a request waited for its batch.", bounds=SECONDS),
    Family("histogram", "model_seconds", "How long a batch was in the model.", bounds=SECONDS),
    Family("histogram", "batch_rows", "Rows in a batch.", bounds=ROWS),
    Family("histogram", "batch_requests", "Requests in a batch.", bounds=ROWS),
    Family("gauge", "queue_rows", "Rows that wait."),
    Family("gauge", "breaker_open", "Workers whose circuit breaker is open."),
    Family("counter", "cache", "Look-ups in the prediction cache; an error is a failure of Redis.",
           ("result",), _each(CacheResult)),
    Family("counter", "prediction_log", "Rows that the prediction log took or had to drop.",
           ("result",), (("logged",), ("dropped",))),
    Family("counter", "model_failures", "Model runs that failed.", ("reason",), _each(Failure)),
)
# fmt: on
SAME = {("stage_seconds", "queue"): ("queue_wait_seconds",), ("stage_seconds", "model"): ("model_seconds",)}


def _layout() -> tuple[dict[tuple[str, ...], int], int]:
    """The first slot of each series, and how many slots there are. A histogram has one for each bucket, one
    beyond the last bound, and one for the sum."""
    places: dict[tuple[str, ...], int] = {}
    end = 0
    for family in FAMILIES:
        for key in ((family.name, *values) for values in family.values):
            if key not in SAME:
                places[key] = end
                end += len(family.bounds) + 2 if family.bounds else 1
    return places | {key: places[same] for key, same in SAME.items()}, end


PLACES, SLOTS = _layout()
MARK = float(zlib.crc32(repr(FAMILIES).encode()))
GAUGES = [PLACES[family.name,] for family in FAMILIES if family.kind == "gauge"]


class Metrics:
    """Counts of this worker, shared through `folder`, which all workers of one service have in common; None:
    there is one worker. `release` becomes the labels of seatrial_build_info.

    Only `logged` and `dropped` may be called from any thread, all others belong to the event loop's. An
    increment takes about 0.15 µs.
    """

    def __init__(self, folder: Path | None = None, release: Mapping[str, str] | None = None) -> None:
        self._release = dict(release or {})
        self._lock = threading.Lock()
        self._counts = Counts(folder, SLOTS, GAUGES, MARK)
        self._slots = self._counts.slots

    def request(self, way: Way, outcome: Outcome, seconds: float) -> None:
        """An answer, or that there will be none because the client left."""
        self._slots[PLACES["requests", way, outcome]] += 1
        self._observe(PLACES["request_seconds", way], SECONDS, seconds)

    def stage(self, name: Stage, seconds: float) -> None:
        """`waited` and `batch` count the stages queue, assemble and model themselves."""
        self._observe(PLACES["stage_seconds", name], SECONDS, seconds)

    def waited(self, seconds: float) -> None:
        self._observe(PLACES["queue_wait_seconds",], SECONDS, seconds)

    def batch(self, rows: int, requests: int, assemble_seconds: float, model_seconds: float) -> None:
        self._observe(PLACES["batch_rows",], ROWS, rows)
        self._observe(PLACES["batch_requests",], ROWS, requests)
        self._observe(PLACES["stage_seconds", "assemble"], SECONDS, assemble_seconds)
        self._observe(PLACES["model_seconds",], SECONDS, model_seconds)

    def queue(self, rows: int) -> None:
        self._slots[PLACES["queue_rows",]] = rows

    def breaker(self, is_open: bool) -> None:
        self._slots[PLACES["breaker_open",]] = is_open

    def cache(self, result: CacheResult) -> None:
        self._slots[PLACES["cache", result]] += 1

    def model_failed(self, reason: Failure) -> None:
        self._slots[PLACES["model_failures", reason]] += 1

    def logged(self, rows: int) -> None:
        with self._lock:
            self._slots[PLACES["prediction_log", "logged"]] += rows

    def dropped(self, rows: int) -> None:
        with self._lock:
            self._slots[PLACES["prediction_log", "dropped"]] += rows

    def render(self) -> bytes:
        """The sums of all workers in Prometheus' text format, version 0.0.4."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)  # pyright: ignore[reportArgumentType]: has what a Collector must have
        return generate_latest(registry)

    def collect(self) -> Iterator:
        """One metric family after the other, as prometheus_client asks its collectors for them."""
        from prometheus_client import metrics_core

        sums = self._counts.sums()
        for kind, name, text, labels, each, bounds in FAMILIES:
            family = getattr(metrics_core, f"{kind.title()}MetricFamily")
            metric = family(f"seatrial_{name}", text, labels=labels)
            for values in each:
                at = PLACES[name, *values]
                metric.add_metric(values, *(_buckets(sums[at:], bounds) if bounds else [sums[at]]))
            yield metric
        build = metrics_core.GaugeMetricFamily("seatrial_build_info", "What serves.", labels=[*self._release])
        build.add_metric([*self._release.values()], 1)
        yield build

    def _observe(self, at: int, bounds: tuple[float, ...], value: float) -> None:
        slots = self._slots
        slots[at + bisect_left(bounds, value)] += 1
        slots[at + len(bounds) + 1] += value


def _buckets(slots: np.ndarray, bounds: tuple[float, ...]) -> tuple[list[tuple[str, float]], float]:
    """Cumulated, as Prometheus wants them, and the sum."""
    counts = slots[: len(bounds) + 1].cumsum().tolist()
    names = [*map(str, bounds), "+Inf"]
    return list(zip(names, counts, strict=True)), float(slots[len(bounds) + 1])
