"""Answers without a model server: what was popular when one was last asked, under the filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hymirec.query import Query


def popular(items: Sequence[dict[str, Any]], query: Query) -> list[dict[str, Any]]:
    """Choose out of a version's most popular items, best first, as the version itself would.

    What the user has seen is not known here and stays in.
    """
    filters = query.filters
    wanted = None if filters.categories is None else {name.lower() for name in filters.categories}
    barred = {name.lower() for name in filters.exclude_categories}
    excluded = set(filters.exclude_items)
    available = None if filters.available_items is None else set(filters.available_items)
    taken: Counter[str] = Counter()
    found = []
    for item in items:
        names = {name.lower() for name in item["categories"]}
        if (
            item["item_id"] in excluded
            or (available is not None and item["item_id"] not in available)
            or (wanted is not None and not names & wanted)
            or names & barred
            or (
                query.max_per_category is not None
                and any(taken[name] >= query.max_per_category for name in names)
            )
        ):
            continue
        taken.update(names)
        found.append(item)
        if len(found) == query.k:
            break
    return found
