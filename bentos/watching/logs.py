"""The log of a worker: one JSON object a line, made to be searched. It never holds the body of a request.

{"time": "2026-11-21T10:00:00.123456Z", "level": "warning", "logger": "bentos.release", "message": "shed",
 "model": "churn", "version": "3", "release_id": "3-0a1b", "count": 12}
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from bentos.manifest import Manifest
from bentos.settings import Settings

ACCESS = "bentos.access"
TAKEN_OVER = ("bentoml", "uvicorn", "uvicorn.error", "uvicorn.access")
STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
"""What every record has; all else came by `extra`."""


class JsonLines(logging.Formatter):
    """Writes a record with its extra fields, and with `always` on every line."""

    def __init__(self, always: Mapping[str, Any]) -> None:
        super().__init__()
        self._always = dict(always)

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
            **{name: value for name, value in vars(record).items() if name not in STANDARD},
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(fields, str, orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()
        except TypeError:  # text that is no Unicode, numbers beyond 64 bits
            return json.dumps(fields, default=str, skipkeys=True)


def install(manifest: Manifest, settings: Settings) -> None:
    """Make the root logger write JSON lines to stdout, and BentoML's and uvicorn's loggers hand it all they
    have. Every line says which release wrote it. The logger `bentos.access` is enabled by the settings."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines(manifest.identity))
    logging.getLogger().handlers = [handler]
    logging.getLogger("bentos").setLevel(logging.INFO)
    logging.getLogger(ACCESS).disabled = not settings.access_log
    for name in TAKEN_OVER:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True


class Limited:
    """Logs an event that may come a thousand times a second at most once in `seconds`, with the count of
    those that it stands for. Events are told apart by their message, which must be one of a few constants."""

    def __init__(
        self, logger: logging.Logger, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger, self._seconds, self._clock = logger, seconds, clock
        self._counts: dict[str, int] = {}
        self._next: dict[str, float] = {}

    def log(self, level: int, message: str, times: int = 1, **fields: Any) -> None:
        """`times` are added to the count; `fields` are written if this is the event that is logged."""
        count = self._counts[message] = self._counts.get(message, 0) + times
        now = self._clock()
        if now >= self._next.get(message, now):
            self._next[message] = now + self._seconds
            self._counts[message] = 0
            self._logger.log(level, message, extra={**fields, "count": count})
