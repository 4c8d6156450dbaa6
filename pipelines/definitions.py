"""The Dagster code location: everything below pipelines/defs."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Every component, asset and resource of the project."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
