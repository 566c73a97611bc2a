"""The contract that every recommender keeps.

B users, S interests, D width, N items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn


class Recommender(nn.Module, ABC):
    """Scores all items for users, from the model inputs that `hymirec.inputs.assemble` makes."""

    @property
    @abstractmethod
    def max_history(self) -> int:
        """Most recent events whose codes the model can read."""

    @property
    @abstractmethod
    def num_recent(self) -> int:
        """Most recent items the model reads one by one."""

    @abstractmethod
    def score(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Model inputs to the scores of all items, [B, N + 1]; column 0 is padding."""


class InterestRecommender(Recommender):
    """Users as S interests, items as vectors, a score as the best cosine between the two."""

    @abstractmethod
    def encode_user(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Model inputs to interests [B, S, D] at unit length; zero for an empty history."""

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """[N + 1, D] at unit length; row 0, padding, is zero."""

    def score(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Best cosine over the interests, in -1..1."""
        interests = self.encode_user(inputs)
        return (interests @ self.item_vectors().T).amax(dim=1)
