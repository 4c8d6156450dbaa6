"""A partition is replaced as a whole or not at all, whatever happens to its writer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bentos.manifest import sha256
from pipelines.gateways.tables import replacing, replacing_folder, write_table

OLD, NEW = pa.table({"x": [1, 2]}), pa.table({"x": [3, 4, 5]})

WRITER = """
import sys, time
from pathlib import Path
from pipelines.gateways.tables import {writer}
with {writer}(Path(sys.argv[1])) as temp:
    {write}
    print("half", flush=True)
    time.sleep(600)
"""


def killed_halfway(writer: str, write: str, path: Path) -> None:
    """Start a writer, wait until it has written half, and kill -9 it there."""
    program = WRITER.format(writer=writer, write=write)
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"half\n"
        os.kill(process.pid, signal.SIGKILL)


def test_equal_tables_give_equal_bytes(tmp_path):
    write_table(OLD, tmp_path / "a.parquet")
    write_table(OLD, tmp_path / "b.parquet")
    assert sha256(tmp_path / "a.parquet") == sha256(tmp_path / "b.parquet")


def test_table_replaces_the_old_one_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "scores" / "2013-04.parquet"
    write_table(OLD, path)
    write_table(NEW, path)
    assert pq.read_table(path).equals(NEW)
    assert list(path.parent.iterdir()) == [path]


def test_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "2013-04.parquet"
    write_table(OLD, path)
    with pytest.raises(ZeroDivisionError), replacing(path) as temp:
        temp.write_bytes(b"half")
        raise ZeroDivisionError
    assert pq.read_table(path).equals(OLD)
    assert list(tmp_path.iterdir()) == [path]


def test_killed_writer_leaves_the_old_file_and_the_next_one_succeeds(tmp_path):
    path = tmp_path / "2013-04.parquet"
    write_table(OLD, path)
    killed_halfway("replacing", "temp.write_bytes(b'half')", path)
    assert pq.read_table(path).equals(OLD)
    assert len(list(tmp_path.iterdir())) == 2
    write_table(NEW, path)
    assert pq.read_table(path).equals(NEW)
    assert list(tmp_path.iterdir()) == [path]


def fill(folder: Path, text: str) -> None:
    with replacing_folder(folder) as temp:
        (temp / "sub").mkdir()
        (temp / "sub" / "file").write_text(text)


def test_folder_is_swapped_in_whole(tmp_path):
    folder = tmp_path / "onnx_model"
    fill(folder, "old")
    with replacing_folder(folder) as temp:
        (temp / "other").write_text("new")
        assert (folder / "sub" / "file").read_text() == "old"
    assert [file.name for file in folder.iterdir()] == ["other"]
    assert list(tmp_path.iterdir()) == [folder]


def test_failing_builder_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "onnx_model"
    fill(folder, "old")
    with pytest.raises(ZeroDivisionError), replacing_folder(folder) as temp:
        (temp / "half").touch()
        raise ZeroDivisionError
    assert (folder / "sub" / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_killed_builder_leaves_the_old_folder_and_the_next_one_succeeds(tmp_path):
    folder = tmp_path / "onnx_model"
    fill(folder, "old")
    killed_halfway("replacing_folder", "(temp / 'half').touch()", folder)
    assert (folder / "sub" / "file").read_text() == "old"
    fill(folder, "new")
    assert (folder / "sub" / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [folder]


def test_writer_that_still_runs_keeps_its_file(tmp_path):
    path = tmp_path / "2013-04.parquet"
    with replacing(path) as temp:
        temp.write_bytes(b"first")
        write_table(NEW, path)
    assert path.read_bytes() == b"first"
