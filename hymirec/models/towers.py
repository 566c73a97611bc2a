"""What makes an item's vector. The tower that reads texts is in `hymirec.encoder`.

U distinct items, N items of the catalogue, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from hymirec.schema import PADDING_INDEX

START_SIZE = 0.02
"""Of a coordinate of an item's own vector at the start, before it is brought to unit length."""


class Tower(nn.Module, ABC):
    """Item indices to item vectors."""

    occurrences: Tensor
    """int64 [N + 1], how often an item occurs in training."""

    @abstractmethod
    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct item indices [U] to unit vectors [U, D] and a loss of the tower's own."""

    @abstractmethod
    def embeddings(self) -> Tensor:
        """All of them, [N + 1, D] at unit length; row 0, padding, is zero."""


class ItemVectors(Tower):
    """A learnt vector for each item and nothing else: the items of models by id."""

    def __init__(self, occurrences: Tensor, width: int) -> None:
        """Make vectors of width D."""
        super().__init__()
        self.vectors = nn.Embedding(len(occurrences), width)
        # Only directions count: the shorter a vector, the further a step turns it. Unit vectors
        # took six epochs to learn what these learn in one.
        nn.init.normal_(self.vectors.weight, std=START_SIZE)
        self.register_buffer("occurrences", occurrences)

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct item indices [U] to unit vectors [U, D]; no loss: 0."""
        vectors = normalize(self.vectors(items), dim=1)
        return vectors, vectors.new_zeros(())

    @torch.no_grad()
    def embeddings(self) -> Tensor:
        """All of them, [N + 1, D] at unit length; row 0, padding, is zero."""
        vectors = normalize(self.vectors.weight, dim=1)
        vectors[PADDING_INDEX] = 0
        return vectors
