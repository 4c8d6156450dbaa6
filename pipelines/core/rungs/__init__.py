"""The rungs of the precision ladder: one file each, and a new rung is one file more.

A rung's module says in its docstring what it is (the catalogue shows it), and has

    def build(recipe: Recipe) -> Mapping[str, object]

which writes `recipe.target` and returns notes for its reader. What it raises is recorded as the reason why
there is no such rung.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import getdoc

from pipelines.core.recipe import Recipe

NAMES = ("fp32", *sorted({module.name for module in pkgutil.iter_modules(__path__)} - {"fp32"}))
"""All rungs, fp32 first."""


@dataclass(frozen=True)
class Rung:
    """One rung. `says` is its catalogue entry."""

    name: str
    says: str
    build: Callable[[Recipe], Mapping[str, object]]


def load_rung(name: str) -> Rung:
    """The rung of that name, one of NAMES."""
    module = import_module(f"{__name__}.{name}")
    return Rung(name, getdoc(module) or "", module.build)
