"""From candidates to a list: unlike items nearer to each other, and not too many of one kind.

P candidates, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hymirec.retrieval import Hit


def rerank(
    hits: Sequence[Hit],
    vectors: NDArray[np.float32],
    k: int,
    *,
    diversity: float = 0.0,
    categories: Sequence[Sequence[str]] = (),
    max_per_category: int | None = None,
) -> list[Hit]:
    """Choose k of the candidates, one after the other.

    Each time the one is taken that has the most of

        (1 − diversity) · score − diversity · (largest cosine with an item taken before),

    which is maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), and no category of
    which is full.

    Args:
        hits: P candidates, best first.
        vectors: float32 [P, D] of the candidates, at unit length.
        k: how many to choose.
        diversity: 0..1; at 0 the order stays.
        categories: of each candidate; may be left out where there is no limit.
        max_per_category: an item of several categories counts in each of them.

    Returns:
        At most k hits; fewer where no more candidates fit. Equally good ones stay in their order.
    """
    if max_per_category is None and not diversity:
        return list(hits[:k])
    taken: Counter[str] = Counter()

    def fits(place: int) -> bool:
        if max_per_category is None:
            return True
        return all(taken[name] < max_per_category for name in set(categories[place]))

    relevance = np.array([hit.score for hit in hits], dtype=np.float32)
    nearest = np.full(len(hits), -1.0, dtype=np.float32)
    open_places = np.ones(len(hits), dtype=bool)
    chosen: list[Hit] = []
    while len(chosen) < k and open_places.any():
        value = relevance
        if diversity and chosen:
            value = (1 - diversity) * relevance - diversity * nearest
        place = int(np.where(open_places, value, -np.inf).argmax())
        open_places[place] = False
        if not fits(place):
            continue
        chosen.append(hits[place])
        if max_per_category is not None:
            taken.update(set(categories[place]))
        if diversity:
            np.maximum(nearest, vectors @ vectors[place], out=nearest)
    return chosen
