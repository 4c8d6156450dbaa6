"""What a user writes, checked as a user would: `dg` in a project of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DG = Path(sys.executable).with_name("dg")
NAMES = ("pipelines", "bentos", "bentofile.yaml", "pyproject.toml")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with a scaffolded model, churn."""
    folder = tmp_path_factory.mktemp("project")
    for name in NAMES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, folder / name)
    uri = "models:/churn@candidate"
    made = dg(folder, "scaffold", "defs", "pipelines.components.ServedModel", "churn", "--registry-uri", uri)
    assert made.returncode == 0, made.stderr
    return folder


def dg(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = project / "home"
    home.mkdir(exist_ok=True)
    settings = {"PYTHONPATH": str(project), "SEATRIAL_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "yes"}
    return subprocess.run(
        [DG, *arguments], cwd=project, env={**os.environ, **settings}, capture_output=True, text=True
    )


def settings_file(project: Path) -> Path:
    return project / "pipelines" / "defs" / "churn" / "defs.yaml"


def test_what_is_scaffolded_checks_green(project):
    text = settings_file(project).read_text()
    assert "registry_uri: models:/churn@candidate" in text and "path: /churn" in text
    checked = dg(project, "check", "defs")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "says", "at"),
    [
        ("  name: churn", "  nme: churn", "'nme' was unexpected", "nme:"),
        ("p99_ms: 100", "p99_ms: -1", "must be greater than 0, not -1", "serving:"),
        ("models:/churn@candidate", "models:/churn/3", "e.g. models:/churn@candidate, not", "registry_uri:"),
    ],
    ids=["unknown key", "setting of a section", "setting of the model"],
)
def test_a_wrong_yaml_fails_with_file_line_and_mend(project, right, wrong, says, at):
    path = settings_file(project)
    good = path.read_text()
    bad = good.replace(right, wrong)
    path.write_text(bad)
    checked = dg(project, "check", "defs")
    path.write_text(good)
    found = checked.stdout + checked.stderr
    line = 1 + bad[: bad.index(at)].count("\n")
    assert checked.returncode != 0 and f"{path}:{line}" in found and says in found
