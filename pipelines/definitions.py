"""The Dagster code location: everything below pipelines/defs."""

import warnings
from pathlib import Path

import dagster as dg

# Dagster says of parts of its own that they are beta or a preview; what we use of them is pinned and tested.
for category in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=category)


def tree() -> dg.ComponentTree:
    """The components of the project, each loaded when it is asked for."""
    return dg.ComponentTree.for_project(Path(__file__).parent)


@dg.definitions
def defs() -> dg.Definitions:
    """Every component, asset and resource of the project."""
    return tree().build_defs()
