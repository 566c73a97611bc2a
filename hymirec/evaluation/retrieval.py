"""Does the index find what exact scores would list?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hymirec.models.base import InterestRecommender
from hymirec.retrieval import ItemIndex, lifted
from hymirec.splits import Case


@torch.no_grad()
def index_recall(
    model: InterestRecommender, index: ItemIndex, cases: Sequence[Case], *, k: int = 10
) -> float:
    """Share of the k items with the highest exact scores that the index lists, mean over cases.

    An item that scores as high as the last one listed counts as found: a tie may go either way.

    Args:
        model: in evaluation mode.
        index: of the model's items.
        cases: whose known histories are asked about, seen items left out.
        k: length of the lists.
    """
    shares = []
    for case in cases:
        inputs = model.assemble([case.known])
        interests = model.encode_user(inputs)[0].numpy()
        seen = case.known.items
        scores = model.score(inputs)[0].clone()
        scores[[0, *seen]] = -torch.inf
        exact = scores.topk(min(k, len(scores))).values
        exact = exact[exact > -torch.inf]
        if not len(exact):
            continue
        hits = index.search(interests, k, excluded=seen)
        if model.transitions is not None:
            lift = model.transitions.lift(seen)
            hits = lifted(hits, lift, model.item_vectors().numpy(), interests, k, seen)
        found = [hit.item for hit in hits]
        shares.append(float((scores[found] >= exact[-1] - 1e-6).sum()) / len(exact))
    return sum(shares) / max(1, len(shares))
