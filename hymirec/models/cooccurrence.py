"""Item-to-item co-occurrence: what the same people took (Sarwar et al., WWW 2001).

N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat

from hymirec.models.base import TrainingData
from hymirec.models.neighbours import (
    NeighbourConfig,
    NeighbourRecommender,
    row_ranges,
    user_item_table,
)


class CoOccurrenceConfig(NeighbourConfig):
    """Settings of the model."""

    decay: float = Field(0.9, gt=0, le=1)
    shrinkage: NonNegativeFloat = 10.0
    """Users added to the denominator: pairs that few have seen are not believed."""


class CoOccurrenceRecommender(NeighbourRecommender):
    """Sums, over recent items, the cosine between the sets of users of two items."""

    config_type = CoOccurrenceConfig

    @classmethod
    def rows(
        cls, data: TrainingData, settings: CoOccurrenceConfig
    ) -> Iterator[NDArray[np.float64]]:
        """Users of both over the root of the product of users of each, shrunk."""
        table = user_item_table(data.histories, len(data.items))
        users = table.sum(axis=0)
        by_item = table.T.tocsr()
        for part in row_ranges(by_item.shape[0]):
            rows = np.array(part)
            both = (by_item[rows] @ table).toarray()
            both[np.arange(len(rows)), rows] = 0
            yield both / (np.sqrt(np.outer(users[rows], users)) + settings.shrinkage).clip(1e-9)
