"""A real Postgres for tests: a cluster of its own, reached by a socket that only it has."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
UNSAFE_AND_FAST = "-cfsync=off", "-csynchronous_commit=off", "-cshared_buffers=16MB"


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database while the block runs. Skips where Postgres is not installed."""
    if not FOUND:
        pytest.skip("Postgres is not installed: apt-get install postgresql")
    folder = Path(
        tempfile.mkdtemp(prefix="pg", dir="/tmp")
    )  # short, and others may enter: a socket lies there
    programs, data = FOUND[-1].parent, folder / "data"
    who: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if os.geteuid() == 0:  # which Postgres refuses to run as
        shutil.chown(folder, "nobody", "nogroup")
        who |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
    made = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "seatrial",
        "-A",
        "trust",
        "-N",
        "--locale=C",
        "-E",
        "UTF8",
    ]
    subprocess.run(made, check=True, **who)
    serve = [programs / "postgres", "-D", data, "-k", folder, "-clisten_addresses=", *UNSAFE_AND_FAST]
    server = subprocess.Popen(serve, **who)
    try:
        while subprocess.run([programs / "pg_isready", "-h", folder], **who).returncode:
            assert server.poll() is None, "Postgres ended before it was ready"
            time.sleep(0.05)  # it does not tell when it is ready
        yield f"postgresql+psycopg://seatrial@/postgres?host={quote(str(folder))}"
    finally:
        server.send_signal(signal.SIGINT)  # at once: on SIGTERM it waits for who is connected
        server.wait()
        shutil.rmtree(folder)
