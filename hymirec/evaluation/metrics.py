"""Ranking metrics of one relevant item, per user first, mean second.

U users. A rank is 1 for the top of the list and infinite for an item that cannot be listed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DEFAULT_CUTOFFS = (10, 50, 100, 200)


def rank_of_target(scores: Tensor, target: Tensor, excluded: Tensor) -> Tensor:
    """Rank each user's target among all items.

    Ties count half: with n items as good as the target, the rank rises by n/2, what a random
    order gives on average; a model that scores everything alike gets no credit for it.

    Args:
        scores: [U, N + 1]; column 0, padding, never takes part.
        target: int64 [U].
        excluded: bool [U, N + 1], items that may not be listed, such as those already seen.

    Returns:
        float [U], infinite where the target itself is excluded or its score is not a number.
    """
    rows = torch.arange(len(target), device=scores.device)
    scores = scores.masked_fill(excluded, -torch.inf)
    scores[:, 0] = -torch.inf
    own = scores[rows, target][:, None]
    better = (scores > own).sum(dim=1)
    as_good = (scores == own).sum(dim=1) - 1
    rank = 1 + better + as_good / 2
    return rank.masked_fill(excluded[rows, target] | own[:, 0].isnan(), torch.inf)


def recall_at(rank: Tensor, k: int) -> Tensor:
    """Per user, 1 if the target is in the first k, else 0: [U]."""
    return (rank <= k).float()


def ndcg_at(rank: Tensor, k: int) -> Tensor:
    """Per user, 1 / log2(1 + rank) if the target is in the first k, else 0: [U]."""
    return torch.where(rank <= k, 1 / torch.log2(1 + rank), 0.0)


def summarise(rank: Tensor, cutoffs: Sequence[int] = DEFAULT_CUTOFFS) -> dict[str, float]:
    """Means over users: `R@k` (recall) and `N@k` (NDCG) at each cutoff."""
    table = {f"R@{k}": recall_at(rank, k).mean().item() for k in cutoffs}
    return table | {f"N@{k}": ndcg_at(rank, k).mean().item() for k in cutoffs}
