"""A codebook for the items there are and for those to come.

Behaviour has shaped the vectors of a catalogue; of an item published later only the text is known,
and what a text alone says lies elsewhere. So some of the catalogue's items are fitted on a second
time, as their texts alone make them, and the others tell how well the codebook serves a text that
it was not fitted on (docs/experiments.md, 2026-11-26).

N items, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hymirec.codebook.base import Codebook
from hymirec.codebook.kinds import AnyConfig, ExactConfig, fit_codebook

TEXT_SHARE = 0.25
"""Of the items whose texts alone are fitted on as well."""


def fit_item_codebook(
    vectors: Tensor, by_text: Tensor, config: AnyConfig, *, seed: int = 0,
    start: Codebook | None = None,
) -> Codebook:  # fmt: skip
    """Learn a codebook of items; arguments and errors as of `fit_codebook`, and

    Args:
        vectors: item vectors [N, D].
        by_text: the same items as their texts alone make them [N, D].
        config: without a codebook, `ExactConfig`, texts are left out: no code is shared there.
        seed: says whose texts, too.
        start: see `fit_codebook`.
    """
    if not isinstance(config, ExactConfig):
        vectors = torch.cat([vectors, by_text[_fitted_on(len(by_text), seed)]])
    return fit_codebook(vectors, config, seed=seed, start=start)


def item_health(
    codebook: Codebook, vectors: Tensor, by_text: Tensor, *, seed: int = 0
) -> dict[str, float]:
    """`Codebook.health` of item vectors [N, D] and `text_cosine`, what to expect of items to come.

    That is the mean cosine between what texts alone say and its decoding, over the items whose
    texts `fit_item_codebook` left out under the same seed.
    """
    held_out = ~_fitted_on(len(by_text), seed)
    text_cosine = codebook.health(by_text[held_out])["cosine"]
    return codebook.health(vectors) | {"text_cosine": text_cosine}


def _fitted_on(num_items: int, seed: int) -> Tensor:
    """Whose texts are fitted on, a mask [N]: never everybody's."""
    order = torch.randperm(num_items, generator=torch.Generator().manual_seed(seed))
    return order < int(TEXT_SHARE * num_items)
