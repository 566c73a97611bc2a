"""Named runs. A recipe is a function that returns every setting of a run."""

from __future__ import annotations

from collections.abc import Callable

from hymirec.errors import UsageError
from hymirec.recipes.ablations import ABLATIONS, SWEEPS
from hymirec.recipes.base import BaselineRecipe, Recipe
from hymirec.recipes.baselines import BASELINES, get_baseline
from hymirec.recipes.full import base, demo, large, small, tiny
from hymirec.recipes.outside import is_outside, made_outside

RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (small, base, large, demo, tiny)
}
DEFAULT_RECIPE = "small"


def get_recipe(name: str) -> Recipe:
    """Look up a recipe by name, or by `module:function` outside the package.

    One from outside is called as it was asked for, so that a retraining finds it again.

    Raises:
        UsageError: there is none of that name; the message lists those there are.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if not is_outside(name):
        known = ", ".join(sorted(RECIPES))
        raise UsageError(f"no recipe is called {name!r}; there are {known}, or module:function")
    return made_outside("recipe", name, Recipe).model_copy(update={"name": name})


__all__ = [
    "ABLATIONS",
    "BASELINES",
    "DEFAULT_RECIPE",
    "RECIPES",
    "SWEEPS",
    "BaselineRecipe",
    "Recipe",
    "get_baseline",
    "get_recipe",
]
