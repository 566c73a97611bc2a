"""Ranking metrics of one relevant item, per user first, mean second.

U users. A rank is 1 for the top of the list and infinite for an item that cannot be listed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

DEFAULT_CUTOFFS = (10, 50, 100, 200)


def rank_of_target(scores: Tensor, target: Tensor) -> Tensor:
    """Rank each user's target among all items.

    Ties count half: with n items as good as the target, the rank rises by n/2, what a random
    order gives on average; a model that scores everything alike gets no credit for it.

    Args:
        scores: [U, N + 1]; minus infinity for items that may not be listed, such as those already
            seen; column 0, padding, never takes part.
        target: int64 [U].

    Returns:
        float [U], infinite where the target itself may not be listed or its score is not a number.
    """
    own = scores.gather(1, target[:, None])
    better = _count(scores[:, 1:] > own)
    as_good = _count(scores[:, 1:] == own) - 1
    rank = 1 + better + as_good / 2
    own = own[:, 0]
    return rank.masked_fill((own == -torch.inf) | own.isnan(), torch.inf)


def _count(true: Tensor) -> Tensor:
    """How many are true in each row of a table."""
    if true.is_cpu:  # NumPy counts ten times as fast as PyTorch, which adds integers
        return torch.from_numpy(np.count_nonzero(true.numpy(), axis=1))
    return true.sum(dim=1)


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
