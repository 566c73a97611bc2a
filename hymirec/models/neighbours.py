"""Recommending what is near to recent items: tables of each item's neighbours.

Also sequential rules (Ludewig and Jannach, UMUAI 2018): what followed the last item, and how soon.

B users, T items, K neighbours, N items of the catalogue.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from hymirec.inputs import IndexedHistory
from hymirec.models.base import PlainBaseline, TrainingData

NUMBERS_AT_ONCE = 2**24
"""Of the item-by-item table, those that are held in memory."""


class NeighbourConfig(BaseModel):
    """Settings of what the models share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_recent: PositiveInt = 100
    num_neighbours: PositiveInt = 200
    """Kept of each item: K."""
    decay: float = Field(1.0, gt=0, le=1)
    """Weight of an event in that of the one after it."""


class NeighbourRecommender(PlainBaseline):
    """Sums the weights of the neighbours of recent items; nothing is learnt by steps."""

    neighbours: Tensor
    weights: Tensor
    config_type: ClassVar[type[NeighbourConfig]]
    settings: NeighbourConfig

    def __init__(self, neighbours: Tensor, weights: Tensor, settings: NeighbourConfig) -> None:
        """Make it from int64 [N + 1, K] neighbours, 0 where there are no more, and weights."""
        super().__init__()
        self.settings = settings
        self.register_buffer("neighbours", neighbours)
        self.register_buffer("weights", weights)

    @classmethod
    @abstractmethod
    def rows(cls, data: TrainingData, settings: Any) -> Iterator[NDArray[np.float64]]:
        """Weights of all items as neighbours, [rows, N + 1], for one block of items after another.

        The blocks begin at item 0, padding. What is not above zero is no neighbour.
        """

    @classmethod
    def build(cls, data: TrainingData, settings: Any) -> Self:
        """Count, and keep the strongest."""
        blocks = [_strongest(block, settings.num_neighbours) for block in cls.rows(data, settings)]
        neighbours, weights = map(torch.cat, zip(*blocks, strict=True))
        return cls(neighbours, weights, settings)

    @property
    def max_history(self) -> int:
        """No codes are read."""
        return 1

    @property
    def num_recent(self) -> int:
        """Items of a history that are read."""
        return self.settings.num_recent

    def score(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Decayed sums of weights, [B, N + 1]."""
        items, length = inputs["recent_items"], inputs["recent_length"]
        ago = length[:, None] - 1 - torch.arange(items.shape[1], device=items.device)
        decay = self.settings.decay ** ago.clamp(min=0) * (ago >= 0)  # [B, T]
        scores = self.weights.new_zeros(len(items), len(self.neighbours))
        for place in range(items.shape[1]):  # [B, T, K] at once would not fit
            near = items[:, place]
            weight = self.weights[near] * decay[:, place, None]
            scores.scatter_add_(1, self.neighbours[near], weight)
        return scores

    @classmethod
    def shaped(cls, settings: Any, weights: Mapping[str, Tensor]) -> Self:
        """The table is all there is."""
        return cls(weights["neighbours"], weights["weights"], settings)


class LastItemConfig(NeighbourConfig):
    """Settings of the model."""

    num_recent: PositiveInt = 1
    max_distance: PositiveInt = 10
    """Events after an item that count as following it."""


class LastItemNeighbours(NeighbourRecommender):
    """What followed the last item in other histories, each time by one over the distance."""

    config_type = LastItemConfig

    @classmethod
    def rows(cls, data: TrainingData, settings: LastItemConfig) -> Iterator[NDArray[np.float64]]:
        """Sums of one over the distance."""
        size = len(data.items) + 1
        follows = csr_array((size, size))
        for distance in range(1, settings.max_distance + 1):
            pairs = [
                (history.items[:-distance], history.items[distance:])
                for history in data.histories
                if len(history) > distance
            ]
            if pairs:
                before, after = map(np.concatenate, zip(*pairs, strict=True))
                weight = np.full(len(before), 1 / distance)
                follows = follows + coo_array((weight, (before, after)), (size, size)).tocsr()
        follows.setdiag(0)
        yield from row_blocks(follows)


def user_item_table(histories: Sequence[IndexedHistory], num_items: int) -> csr_array:
    """Who has which item: [users, N + 1] of zeros and ones."""
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    items = np.concatenate([history.items for history in histories])
    table = coo_array(
        (np.ones(len(items)), (users, items)), (len(histories), num_items + 1)
    ).tocsr()
    table.data[:] = 1  # a repeated pair was summed
    return table


def row_blocks(table: csr_array) -> Iterator[NDArray[np.float64]]:
    """Rows of a sparse table, some at a time, written out."""
    for rows in row_ranges(table.shape[0]):
        yield table[rows.start : rows.stop].toarray()


def row_ranges(num_items: int) -> Iterator[range]:
    """Rows of an item-by-item table that fit in memory together."""
    size = max(1, NUMBERS_AT_ONCE // num_items)
    for start in range(0, num_items, size):
        yield range(start, min(start + size, num_items))


def _strongest(block: NDArray[np.float64], num_neighbours: int) -> tuple[Tensor, Tensor]:
    weights, neighbours = torch.from_numpy(block).float().topk(min(num_neighbours, block.shape[1]))
    present = weights > 0
    return neighbours.where(present, 0), weights.where(present, 0)
