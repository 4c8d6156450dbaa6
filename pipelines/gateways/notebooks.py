"""Papermill: a parameterized notebook run once, kept executed and as HTML that reads offline."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Report:
    """An executed notebook and its HTML, side by side."""

    notebook: Path
    html: Path


class Notebooks(ABC):
    """The reports of the project, by name."""

    @abstractmethod
    def run(self, name: str, parameters: Mapping[str, object], into: Path) -> Report:
        """Execute notebooks/`name`.ipynb into the folder `into`; half-written files never stay.
        Raises NotebookRefused for an unknown or missing parameter, or a failing cell."""
