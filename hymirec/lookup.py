"""The items table as lookups: indices, names, categories, popularity, and what filters let through.

N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hymirec.additions import CATEGORIES
from hymirec.inputs import number_items
from hymirec.query import Filters
from hymirec.schema import ITEM_ID, PADDING_INDEX, TITLE

POPULARITY = "popularity"


class NamedItem(NamedTuple):
    """An item as people and programs know it."""

    item_id: str
    title: str


@dataclass(frozen=True)
class ItemLookup:
    """What is known of items by their index, 1..N.

    Attributes:
        index: of each item id.
        item_ids: of index i at place i - 1, as are titles and categories.
        titles: see there.
        categories: see there; an item has any number of them.
        by_popularity: int64 [N], indices, most popular first.
    """

    index: dict[str, int]
    item_ids: list[str]
    titles: list[str]
    categories: list[tuple[str, ...]]
    by_popularity: NDArray[np.int64]
    _items_of: dict[str, NDArray[np.int64]]

    @classmethod
    def of(cls, items: pd.DataFrame) -> ItemLookup:
        """Make it of a package's table, in the order of item indices."""
        ids = items[ITEM_ID].tolist()
        categories = [tuple(names) for names in category_lists(items)]
        return cls(
            index=number_items(ids),
            item_ids=ids,
            titles=items[TITLE].fillna("").tolist(),
            categories=categories,
            by_popularity=(-items[POPULARITY].to_numpy()).argsort(kind="stable") + 1,
            _items_of=_items_by_category(categories),
        )

    def named(self, item: int) -> NamedItem:
        """Id and title of an index."""
        return NamedItem(self.item_ids[item - 1], self.titles[item - 1])

    def titles_of(self, item_ids: Sequence[str]) -> list[str]:
        """Titles of items; one that is not known goes by its id."""
        places = self.places(item_ids)
        return [
            self.titles[place - 1] if place else item
            for place, item in zip(places, item_ids, strict=True)
        ]

    def places(self, item_ids: Sequence[str]) -> list[int]:
        """Indices of items; 0 for one that is not known."""
        return [self.index.get(item, PADDING_INDEX) for item in item_ids]

    def allowed(self, filters: Filters) -> NDArray[np.bool_] | None:
        """Which indices pass, bool [N + 1]; None where all do."""
        if not filters.any:
            return None
        allowed = np.zeros(len(self.item_ids) + 1, dtype=bool)
        if filters.available_items is None:
            allowed[1:] = True
        else:
            allowed[self.places(filters.available_items)] = True
        if filters.categories is not None:
            allowed &= self._in_categories(filters.categories)
        if filters.exclude_categories:
            allowed &= ~self._in_categories(filters.exclude_categories)
        allowed[self.places(filters.exclude_items)] = False
        allowed[PADDING_INDEX] = False
        return allowed

    def _in_categories(self, names: Sequence[str]) -> NDArray[np.bool_]:
        mask = np.zeros(len(self.item_ids) + 1, dtype=bool)
        for name in names:
            mask[self._items_of.get(name.lower(), [])] = True
        return mask


def category_lists(items: pd.DataFrame) -> list[list[str]]:
    """Categories of every row; none where the table is of a version that did not know any."""
    if CATEGORIES not in items:
        return [[] for _ in range(len(items))]
    return items[CATEGORIES].tolist()


def _items_by_category(categories: Sequence[Sequence[str]]) -> dict[str, NDArray[np.int64]]:
    """Item indices by category, in small letters."""
    found: dict[str, list[int]] = {}
    for index, names in enumerate(categories, start=1):
        for name in names:
            found.setdefault(name.lower(), []).append(index)
    return {name: np.array(items, dtype=np.int64) for name, items in found.items()}
