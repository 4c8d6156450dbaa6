"""Papermill with a real kernel: what is refused, what is written, and that nothing half-written stays."""

import json
import sys
from pathlib import Path

import nbformat
import pytest

from pipelines.core.errors import NotebookRefused
from pipelines.gateways.notebooks import Papermill

PARAMETERS = """
source = ""  # the file to read
note = ""  # optional: a text
rows = 3  # optional: how many
"""
BODY = """
import sys, time, os
print("answer", source, note, rows, type(rows).__name__, sys.executable)
if rows == 5: raise ValueError("five\\nis too many")
if rows == 6: os._exit(1)
if rows == 7: time.sleep(60)
"""


@pytest.fixture
def papermill(tmp_path: Path) -> Papermill:
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS.strip(), metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(BODY.strip()),
    ]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "notebooks/n.ipynb"
    )
    return Papermill(tmp_path / "notebooks", cell_timeout_s=3)


def printed(notebook: Path) -> str:
    return nbformat.read(notebook, 4).cells[-1].outputs[0].text


@pytest.mark.e2e
def test_a_notebook_is_executed_and_kept_with_its_page(papermill: Papermill, tmp_path: Path):
    report = papermill.run("n", {"source": tmp_path / "a b.json", "rows": 4}, tmp_path / "out")
    assert printed(report.notebook) == f"answer {tmp_path}/a b.json  4 int {sys.executable}\n"
    html = report.html.read_text()
    assert "answer" in html and "import sys" not in html
    assert "mathjax/2" not in html and "require.min.js" not in html and "cdnjs" not in html
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["n.html", "n.ipynb"]


@pytest.mark.e2e
def test_the_kernel_is_this_interpreter_whatever_kernels_the_user_has(
    papermill: Papermill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = tmp_path / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    argv = ["/bin/false", "{connection_file}"]
    (other / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    report = papermill.run("n", {"source": "x"}, tmp_path / "out")
    assert sys.executable in printed(report.notebook)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"source": "x", "row": 4}, "it knows no parameter 'row', only source, note, rows."),
        ({"rows": 4}, "the parameter 'source' is missing (the file to read)."),
        ({"source": ["x"]}, "'source' is a list; pass a path, a string or a number."),
    ],
    ids=["unknown", "missing", "data"],
)
def test_wrong_parameters_are_refused_before_anything_runs(
    papermill: Papermill, tmp_path: Path, parameters: dict, sentence: str
):
    with pytest.raises(NotebookRefused) as refusal:
        papermill.run("n", parameters, tmp_path / "out")
    assert str(refusal.value) == f"The notebook n did not run: {sentence}"
    assert not (tmp_path / "out").exists()


def test_an_unknown_notebook_is_refused(papermill: Papermill, tmp_path: Path):
    with pytest.raises(NotebookRefused, match=r"there is no .*nope\.ipynb"):
        papermill.run("nope", {}, tmp_path / "out")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (5, "cell 3 raised ValueError: five."),
        (6, "its kernel failed: Kernel died."),
        (7, "a cell took more than 3 seconds."),
    ],
    ids=["raises", "dies", "hangs"],
)
def test_a_failing_cell_leaves_the_former_report(
    papermill: Papermill, tmp_path: Path, rows: int, sentence: str
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "n.html").write_text("former")
    with pytest.raises(NotebookRefused) as refusal:
        papermill.run("n", {"source": "x", "rows": rows}, tmp_path / "out")
    assert str(refusal.value) == f"The notebook n did not run: {sentence}"
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["former"]
