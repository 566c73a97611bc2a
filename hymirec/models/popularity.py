"""The most popular items for everyone: the floor that a recommender has to beat."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hymirec.models.base import Recommender


class PopularityRecommender(Recommender):
    """Scores an item by how often it occurs in training."""

    counts: Tensor

    def __init__(self, counts: Tensor) -> None:
        """Make it from int64 [N + 1], the training events of each item."""
        super().__init__()
        self.register_buffer("counts", counts)

    @property
    def max_history(self) -> int:
        """It reads no history."""
        return 1

    @property
    def num_recent(self) -> int:
        """It reads no history."""
        return 1

    def score(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The same counts for every user, [B, N + 1]."""
        return self.counts.to(torch.float32).expand(len(inputs["recent_length"]), -1)
