"""The map in `pipelines/__init__.py`, the gateways' list and those of the service name every module."""

import importlib
import re
from pathlib import Path

import bentos
import pipelines
from pipelines import gateways

ROOT = Path(pipelines.__file__).parent


def _modules(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*.py") if path.stem != "__init__"}


def _named(docstring: str | None) -> set[str]:
    return set(re.findall(r"[a-z0-9_]+", docstring or ""))


def test_the_map_names_every_module():
    assert _modules(ROOT) - _named(pipelines.__doc__) == set()


def test_the_map_names_no_module_that_is_gone():
    entries = re.findall(r"^ +([a-z0-9_]+)(?:/)? {2,}", pipelines.__doc__ or "", flags=re.MULTILINE)
    folders = {path.name for path in ROOT.rglob("*") if path.is_dir()}
    assert set(entries) - _modules(ROOT) - folders == set()


def test_the_gateways_are_listed():
    assert _modules(ROOT / "gateways") - _named(gateways.__doc__) == set()


def test_the_service_s_maps_name_every_module():
    root = Path(bentos.__file__).parent
    assert {path.stem for path in root.glob("*.py")} - {"__init__"} - _named(bentos.__doc__) == set()
    for folder in (path.parent for path in root.glob("*/__init__.py")):
        assert folder.name in _named(bentos.__doc__)
        assert _modules(folder) - _named(importlib.import_module(f"bentos.{folder.name}").__doc__) == set()
