"""Folders of Parquet files that only ever hold whole files, and never more than a given number of bytes.

A segment is written under a temporary name, synced and renamed. Its writer locks it meanwhile, so that the
remains of a crash can be told from the work of a neighbour.
"""

import fcntl
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 65_536
NAME = "predictions-*.parquet"


def write(folder: Path, table: pa.Table) -> Path:
    """Add a segment, named by the time. Raises OSError, and then leaves nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"predictions-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{uuid.uuid4().hex[:8]}.parquet"
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        with unfinished.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            pq.write_table(table, file, row_group_size=ROW_GROUP_ROWS, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    _sync(folder)
    return path


def keep(folder: Path, total_bytes: int) -> None:
    """Remove the oldest segments until the rest takes no more than `total_bytes`."""
    kept = 0
    for path in sorted(folder.glob(NAME), reverse=True):
        try:
            kept += path.stat().st_size
        except FileNotFoundError:  # another worker was faster
            continue
        if kept > total_bytes:
            path.unlink(missing_ok=True)


def clear_unfinished(folder: Path) -> None:
    """Remove what a crash has left; what another worker is writing stays."""
    for path in folder.glob(f".{NAME}.tmp"):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
