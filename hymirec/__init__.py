"""HyMiRec: hybrid multi-interest sequential recommendation (arXiv 2510.13738).

The library in a few names; each module has more. They are looked up when first used, because torch
and transformers take seconds to import and the command line has answers that need neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hymirec.datasets import Dataset, load
    from hymirec.fitting import Fitted, fit
    from hymirec.package import Recommendation, RecommenderPackage
    from hymirec.recipes import Recipe, get_recipe

__version__ = "0.2.0"
"""The one place: pyproject.toml takes it from here."""

__all__ = [
    "Dataset",
    "Fitted",
    "Recipe",
    "Recommendation",
    "RecommenderPackage",
    "fit",
    "get_recipe",
    "load",
]

_MODULES = {
    "Dataset": "datasets",
    "load": "datasets",
    "Fitted": "fitting",
    "fit": "fitting",
    "Recommendation": "package",
    "RecommenderPackage": "package",
    "Recipe": "recipes",
    "get_recipe": "recipes",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hymirec' has no attribute {name!r}")
    return getattr(import_module(f"hymirec.{_MODULES[name]}"), name)
