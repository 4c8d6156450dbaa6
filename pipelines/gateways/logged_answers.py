"""What the prediction log has of a rollout: answers and latencies of both arms, each segment read once."""

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.core.rollout.answers import Answers
from pipelines.core.rollout.observation import ArmName
from pipelines.core.rollout.watch import Watch

FACTS = ["release_id", "row", "time", "total_ms"]


class Found(NamedTuple):
    """Of one arm in one segment: latencies, and answers by bin."""

    arm: ArmName
    times_ms: np.ndarray
    counts: list[int]


def segments_since(folder: Path, since: float) -> list[Path]:
    """Those written since then (epoch seconds), oldest first; a folder that is not there has none. A segment
    is named by the time at which it was written, and holds only rows from before."""
    first = f"predictions-{datetime.fromtimestamp(since, UTC):%Y%m%dT%H%M%S.%fZ}"
    with suppress(FileNotFoundError), os.scandir(folder) as entries:  # of the many there may be, few are new
        names = (entry.name for entry in entries)
        return [folder / name for name in sorted(names) if name >= first and name.endswith(".parquet")]
    return []


class LoggedAnswers:
    """One answer a request is counted, that to its first row: rows of one request are seldom independent,
    which the statistics take them to be. Requests that were forced to an arm can't be told from others here.
    Answers of caches and fallbacks count, as clients get them."""

    def __init__(self, folder: Path, watch: Watch) -> None:
        self._folder, self._watch = folder, watch
        self._since = min(watch.span(arm)[0] for arm in watch.releases.values())
        self._seen: set[Path] = set()
        self._changed = 0.0
        self.is_behind, self.trouble = False, ""

    def new(self, most: int, now: float) -> Iterator[Found]:
        """What at most so many unread segments hold; `is_behind` says whether there were more. One that can't
        be read is passed over, and is the `trouble`."""
        if not self._may_have_more(now):
            return
        there = segments_since(self._folder, self._since)
        unread = [path for path in there if path not in self._seen]
        self._seen = self._seen.intersection(there).union(unread[:most])
        self.is_behind = len(unread) > most
        for path in unread[:most]:
            yield from self._read(path)

    def _may_have_more(self, now: float) -> bool:
        """Whether a list of the folder is worth its while: the folder has changed since the last one, or so
        lately that its clock may be too coarse to tell."""
        before = self._changed
        with suppress(FileNotFoundError):
            self._changed = self._folder.stat().st_mtime
        return self.is_behind or self._changed != before or now - self._changed < 1

    def _read(self, path: Path) -> Iterator[Found]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        answers = self._watch.answers
        columns = [*FACTS, f"output_{answers.output}"] if answers else FACTS
        try:
            table = pq.ParquetFile(path).read(columns)
            if missing := sorted(set(columns).difference(table.column_names)):
                raise pa.ArrowInvalid(f"it has no {missing[0]}")
            yield from [_found(table, arm, chosen, answers) for arm, chosen in self._chosen(table)]
        except (OSError, pa.ArrowException, ValueError) as error:
            self.trouble = f"the segment {path.name} of the prediction log can't be read: {error}"

    def _chosen(self, table) -> Iterator[tuple[ArmName, np.ndarray]]:
        """First rows of requests to each arm, in its time."""
        releases = table["release_id"].to_numpy()
        seconds = table["time"].to_numpy().astype("datetime64[us]").astype(np.int64) / 1e6
        first = table["row"].to_numpy() == 0
        for release, arm in self._watch.releases.items():
            start, end = self._watch.span(arm)
            chosen = first & (releases == release) & (seconds >= start) & (seconds < end)
            if chosen.any():
                yield arm, chosen


def _found(table, arm: ArmName, chosen: np.ndarray, answers: Answers | None) -> Found:
    import pyarrow as pa

    kept = table.filter(pa.array(chosen))
    if answers is None:
        return Found(arm, kept["total_ms"].to_numpy(), [])
    numbers = answers.numbers(*_flat(kept[f"output_{answers.output}"].combine_chunks()))
    return Found(arm, kept["total_ms"].to_numpy(), answers.count(numbers))


def _flat(column) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of a column, null as NaN, and where each row's begin and the last one's end."""
    import pyarrow as pa

    starts = np.arange(len(column) + 1)
    while pa.types.is_list(column.type):
        starts, column = column.offsets.to_numpy()[starts], column.values
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), starts
