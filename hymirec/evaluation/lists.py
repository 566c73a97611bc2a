"""What lists of recommendations are like, whether or not they hit.

U users, k length of a list, N items of the catalogue, C categories.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, vstack

from hymirec.categories import categories_in, category_column
from hymirec.inputs import IndexedHistory
from hymirec.schema import PADDING_INDEX
from hymirec.texts import plain_texts
from hymirec.words import WordVectors

SMOOTHING = 0.01
"""Of the history's mix in that of the list, so that a category left out costs much, not all."""


def item_words(items: pd.DataFrame) -> csr_array:
    """Items by the words of their texts, rarer ones counting more (TF-IDF), at unit length.

    Args:
        items: the canonical items table; row i is item index i + 1.

    Returns:
        [N + 1, words]; row 0, padding, and rows of items without text are zero.
    """
    table = WordVectors(plain_texts(items)).table
    return csr_array(vstack([csr_array((1, table.shape[1])), table]))


def item_categories(items: pd.DataFrame) -> csr_array | None:
    """Items by category, an item of several counting as a share of each.

    Categories are those of `hymirec.categories.category_column`.

    Returns:
        [N + 1, C], rows sum to one or, without a category, to zero; None where no column has any.
    """
    if not (column := category_column(items)):
        return None
    table = _counts([[part.lower() for part in row] for row in categories_in(items[column])])
    share = 1 / np.maximum(table.sum(axis=1), 1)
    return csr_array(table.multiply(share[:, None]))


def list_measures(
    lists: NDArray[np.int64],
    histories: Sequence[IndexedHistory],
    occurrences: NDArray[np.int64],
    words: csr_array,
    categories: csr_array | None,
) -> dict[str, float]:
    """Measures of all lists together.

    Args:
        lists: [U, k] item indices, best first, 0 where there are no more.
        histories: of the same users, as they were known.
        occurrences: [N + 1], events of each item in training.
        words: see `item_words`.
        categories: see `item_categories`; without, there is no `calibration`.

    Returns:
        `coverage`: share of the catalogue that is in any list.
        `novelty`: mean information of a listed item, -log2 of its share of training events, of
        which every item is given one more (Vargas and Castells, RecSys 2011), in bits.
        `popularity_lift`: how much more popular listed items are than those of the user's history,
        as a share of the latter (Abdollahpouri et al., 2019); 0 is as popular.
        `diversity`: mean over lists of one minus the cosine of two items' words (Ziegler et al.,
        WWW 2005).
        `calibration`: mean Kullback-Leibler divergence, in nats, of the list's mix of categories
        from the history's (Steck, RecSys 2018); 0 is the same mix.
        `short_lists`, `repeats`: share of lists with fewer than k items, and with one twice.
    """
    listed = lists != PADDING_INDEX
    in_any = np.unique(lists[listed])
    information = -np.log2((occurrences + 1) / (occurrences[1:] + 1).sum())
    full = listed.any(axis=1)
    by_user = listed.sum(axis=1)
    past = np.array([_mean(occurrences, history.items) for history in histories])
    present = (occurrences[lists] * listed).sum(axis=1) / np.maximum(by_user, 1)
    compared = full & (past > 0)
    measures = {
        "coverage": len(in_any) / (len(occurrences) - 1),
        "novelty": float(information[lists[listed]].mean()) if len(in_any) else 0.0,
        "popularity_lift": float((present[compared] / past[compared] - 1).mean())
        if compared.any() else 0.0,
        "diversity": _diversity(lists, words),
        "short_lists": float((by_user < lists.shape[1]).mean()),
        "repeats": float(np.mean([_has_repeat(row[row != 0]) for row in lists])),
    }  # fmt: skip
    if categories is not None:
        measures["calibration"] = _calibration(lists, histories, categories)
    return measures


def _diversity(lists: NDArray[np.int64], words: csr_array) -> float:
    values = []
    for row in lists:
        items = row[row != PADDING_INDEX]
        if len(items) > 1:
            table = words[items]
            total = np.asarray(table.sum(axis=0))
            own = table.multiply(table).sum()  # the cosine of each with itself
            pairs = len(items) * (len(items) - 1)
            values.append(1 - (float(total @ total) - own) / pairs)
    return float(np.mean(values)) if values else 0.0


def _calibration(
    lists: NDArray[np.int64], histories: Sequence[IndexedHistory], categories: csr_array
) -> float:
    values = []
    for row, history in zip(lists, histories, strict=True):
        wanted = _mix(categories, history.items)
        found = _mix(categories, row[row != PADDING_INDEX])
        if wanted.sum() == 0 or found.sum() == 0:
            continue
        found = (1 - SMOOTHING) * found + SMOOTHING * wanted
        some = wanted > 0
        values.append(float((wanted[some] * np.log(wanted[some] / found[some])).sum()))
    return float(np.mean(values)) if values else 0.0


def _mix(categories: csr_array, items: NDArray[np.int64]) -> NDArray[np.float64]:
    total = np.asarray(categories[items].sum(axis=0)).ravel()
    return total / max(total.sum(), 1e-12)


def _mean(occurrences: NDArray[np.int64], items: NDArray[np.int64]) -> float:
    return float(occurrences[items].mean()) if len(items) else 0.0


def _has_repeat(items: NDArray[np.int64]) -> bool:
    return len(np.unique(items)) < len(items)


def _counts(parts: list[list[str]]) -> csr_array:
    """How often each part occurs in each row, under a row of zeros for padding."""
    names = {name: place for place, name in enumerate(sorted({p for row in parts for p in row}))}
    rows = [row for row, found in enumerate(parts, start=1) for _ in found]
    columns = [names[part] for found in parts for part in found]
    shape = (len(parts) + 1, len(names))
    return coo_array((np.ones(len(rows)), (rows, columns)), shape).tocsr()
