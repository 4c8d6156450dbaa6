"""The prediction log: what was asked and answered, for drift and performance to be judged by.

The event loop appends references to a bounded buffer and never waits; a thread makes them into Arrow and
writes Parquet segments. What does not fit, or finds a full disk, is dropped and counted: the log costs no
answer. Imported only where there is a prediction log.
"""

import itertools
import logging
import math
import threading
import time
import uuid
import zlib
from collections import deque

import pyarrow as pa

from bentos.contract import Field
from bentos.manifest import Manifest
from bentos.settings import Settings
from bentos.watching import records, segments
from bentos.watching.logs import Limited
from bentos.watching.metrics import Metrics
from bentos.work import Job

BUFFER_VALUES = 2_000_000
"""Numbers and strings that may wait for the thread: about 16 MB of tensors, 150 MB of JSON rows."""
CHUNK_ROWS = 64
"""Made into Arrow in one go; Python runs one thread at a time, so the event loop waits for that long."""
BREATH_SECONDS = 0.001
TICK_SECONDS = 0.25
CLOSE_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Capture:
    """A segment is written when its rows fill the settings' bytes or the oldest has waited for its seconds.
    The share of requests that the plan wants is chosen by request id, so all workers choose alike."""

    def __init__(self, settings: Settings, manifest: Manifest, metrics: Metrics) -> None:
        assert settings.capture_folder is not None
        self._folder, self._settings = settings.capture_folder, settings
        self._manifest, self._metrics = manifest, metrics
        self._schema = records.schema(manifest.contract)
        self._threshold = manifest.plan.capture_share * 2**32
        fields = (*manifest.contract.inputs, *manifest.contract.outputs)
        self._values = sum(_values(field) for field in fields if not field.any_length)
        self._values_by_length = sum(_values(field) for field in fields if field.any_length)
        # Written by the loop and by the thread, respectively: the difference waits.
        self._offered = self._taken = 0
        self._waiting: deque[tuple] = deque()
        self._unnamed = (f"{uuid.uuid4().hex}-{number}" for number in itertools.count())
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self._since = 0.0
        self._log = Limited(logger, seconds=60)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def offer(self, job: Job) -> None:
        """Log an answered job, perhaps; takes about 1 µs. For the event loop."""
        request_id = job.request_id or next(self._unnamed)
        if zlib.crc32(request_id.encode()) >= self._threshold:
            return
        values = self._cost(job.size, job.length)
        if self._offered - self._taken + values > BUFFER_VALUES:
            return self._metrics.dropped(job.size)
        self._offered += values
        source = job.fallback or ("model" if job.started else "cache")
        user = (job.trace or {}).get(b"x-user-id")
        given = request_id, user, job.way, source, job.size, job.length, job.rows, job.feeds, job.outputs
        self._waiting.append((*given, job.arrived, job.started, job.finished, time.monotonic(), time.time()))

    def close(self) -> None:
        """Write what is left."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)

    def _cost(self, size: int, length: int) -> int:
        return size * (self._values + self._values_by_length * length)

    def _run(self) -> None:
        try:
            segments.clear_unfinished(self._folder)
        except OSError as error:
            self._lost(0, error)
        while not self._closing.wait(TICK_SECONDS):
            self._turn()
        self._turn()
        self._write()

    def _turn(self) -> None:
        while chunk := self._chunk():
            self._convert(chunk)
            self._write_if_due()
            if not self._closing.is_set():
                time.sleep(BREATH_SECONDS)  # or the event loop would wait for the next chunk as well
        self._write_if_due()

    def _chunk(self) -> list[records.Entry]:
        chunk, rows = [], 0
        while self._waiting and rows < CHUNK_ROWS:
            entry = records.Entry(*self._waiting.popleft())
            self._taken += self._cost(entry.size, entry.length)
            rows += entry.size
            chunk.append(entry)
        return chunk

    def _convert(self, chunk: list[records.Entry]) -> None:
        try:
            made = list(records.batches(self._manifest, self._schema, chunk))
        except Exception as error:  # noqa: BLE001  what Arrow refuses must not end the log of all others
            return self._lost(sum(entry.size for entry in chunk), error)
        if not self._batches:
            self._since = time.monotonic()
        self._batches += made
        self._bytes += sum(batch.nbytes for batch in made)

    def _write_if_due(self) -> None:
        age_seconds = time.monotonic() - self._since
        if (
            self._bytes >= self._settings.capture_segment_bytes
            or age_seconds >= self._settings.capture_segment_seconds
        ):
            self._write()

    def _write(self) -> None:
        if not self._batches:
            return
        table = pa.Table.from_batches(self._batches, self._schema)
        self._batches, self._bytes = [], 0
        try:
            segments.keep(self._folder, self._settings.capture_total_bytes - table.nbytes)
            segments.write(self._folder, table)
        except (OSError, pa.ArrowException) as error:
            return self._lost(table.num_rows, error)
        self._metrics.logged(table.num_rows)

    def _lost(self, rows: int, error: Exception) -> None:
        self._metrics.dropped(rows)
        reason = getattr(error, "strerror", None) or type(error).__name__
        self._log.log(logging.WARNING, "rows are missing in the prediction log", rows, reason=reason)


def _values(field: Field) -> int:
    """In a row, for each unit of its length."""
    return math.prod(size for size in field.shape[1:] if size > 0)
