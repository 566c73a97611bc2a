"""HyMiRec with one part left out or replaced, as the paper's ablation table has it, and sweeps.

Each changes the fields it names and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hymirec.codebook import PRESETS, ExactConfig
from hymirec.recipes.base import Recipe

Change = Callable[[Recipe], Recipe]


def _with(part: str, **fields: Any) -> Change:
    def change(recipe: Recipe) -> Recipe:
        changed = getattr(recipe, part).model_copy(update=fields)
        return recipe.model_copy(update={part: changed})

    return change


def _both(first: Change, second: Change) -> Change:
    return lambda recipe: second(first(recipe))


def _codebook(config: Any) -> Change:
    return lambda recipe: recipe.model_copy(update={"codebook": config})


_no_transitions = _with("transitions", max_weight=0.0)

ABLATIONS: dict[str, Change] = {
    "no_lightweight_recommender": _with("recommender", num_coarse=0),
    "no_codebook": _codebook(ExactConfig()),
    "euclidean_codebook": _codebook(PRESETS["euclidean"]),
    "no_indicator": _with("recommender", indicator=False),
    "no_multi_interest": _with("recommender", num_interests=1),
    "no_window_targets": _with("recommender", window=1),
    "max_matching": _with("recommender", matching="max"),
    "no_transitions": _no_transitions,
    "paper_loss": _both(_with("recommender", merged_weight=0.0), _no_transitions),
}
"""Ours goes beyond the paper in `merged_weight` and in transitions; `paper_loss`, without either,
is the paper as it stands."""

SWEEPS: dict[str, dict[str, Change]] = {
    "interests": {f"interests={n}": _with("recommender", num_interests=n) for n in (1, 2, 3, 4)},
    "window": {f"window={n}": _with("recommender", window=n) for n in (1, 2, 4, 8)},
}


def variant(recipe: Recipe, name: str, change: Change) -> Recipe:
    """The recipe changed, under a name of its own."""
    return change(recipe).model_copy(update={"name": f"{recipe.name}, {name}"})
