"""From events to histories to a model's numbers: one way, alike in training and serving.

What comes after, batches of tensors, is `hymirec.tensors`; nothing here needs PyTorch.

L history length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hymirec.errors import DataError
from hymirec.history import History
from hymirec.schema import ITEM_ID, PADDING_INDEX, TIMESTAMP, USER_ID


@dataclass(frozen=True)
class IndexedHistory:
    """A history in the numbers of one model, oldest event first.

    Attributes:
        items: int64 [L], item indices, never padding.
        codes: uint8 [L, bytes per item]; [L, 0] where nothing is coded yet.
        times: int64 [L], seconds since 1970 UTC, never falling.
    """

    items: NDArray[np.int64]
    codes: NDArray[np.uint8]
    times: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        items: NDArray[np.int64],
        codes: NDArray[np.uint8] | None = None,
        times: NDArray[np.int64] | None = None,
    ) -> IndexedHistory:
        """Make one, without codes and with all times 0 unless they are given."""
        return cls(
            items,
            np.zeros((len(items), 0), dtype=np.uint8) if codes is None else codes,
            np.zeros(len(items), dtype=np.int64) if times is None else times,
        )

    def __len__(self) -> int:
        return len(self.items)

    def until(self, end: int) -> IndexedHistory:
        """Return the first `end` events: what was known before event `end`."""
        return self._taking(slice(end))

    def last(self, count: int) -> IndexedHistory:
        """Return the last `count` events, or all where there are fewer."""
        return self._taking(slice(max(0, len(self) - count), None))

    def only(self, events: NDArray[np.bool_]) -> IndexedHistory:
        """Return the events that a mask [L] marks."""
        return self._taking(events)

    def coded(self, codes: NDArray[np.uint8]) -> IndexedHistory:
        """Return the same with codes from a table [N + 1, bytes per item]."""
        return IndexedHistory(self.items, codes[self.items], self.times)

    def _taking(self, events: slice | NDArray[np.bool_]) -> IndexedHistory:
        return IndexedHistory(self.items[events], self.codes[events], self.times[events])


def index_interactions(
    interactions: pd.DataFrame, item_index: Mapping[str, int]
) -> list[IndexedHistory]:
    """Canonical interactions to one history a user, without codes: what the encoder learns from.

    Users come in the order of the table; every item has to be in `item_index`.
    """
    items = interactions[ITEM_ID].map(item_index).to_numpy().astype(np.int64)
    users, _ = pd.factorize(interactions[USER_ID])
    starts = np.flatnonzero(np.diff(users)) + 1
    times = seconds(interactions[TIMESTAMP])
    return [
        IndexedHistory.of(part, times=own)
        for part, own in zip(np.split(items, starts), np.split(times, starts), strict=True)
    ]


def seconds(times: pd.Series) -> NDArray[np.int64]:
    """Timestamps as whole seconds since 1970 UTC."""
    return times.dt.as_unit("ns").astype("int64").to_numpy() // 1_000_000_000


def number_items(item_ids: Sequence[str]) -> dict[str, int]:
    """Give items the indices 1..N in the order they come in."""
    return {item: place for place, item in enumerate(item_ids, start=1)}


def build_histories(
    interactions: pd.DataFrame,
    item_ids: Sequence[str] | pd.Index[str],
    codes: NDArray[np.uint8],
    codebook_id: str,
) -> dict[str, History]:
    """Gather each user's events in order of time.

    Args:
        interactions: canonical interactions (`hymirec.datasets.base.Dataset`); events of one
            second keep the order they stand in.
        item_ids: N item ids, each once.
        codes: uint8 [N, bytes per item], in the order of `item_ids`.
        codebook_id: the codebook the codes were made with.

    Returns:
        Histories by user id, users in the order they first occur.

    Raises:
        DataError: an interaction has an item that is not in `item_ids`, or no time.
    """
    if interactions.empty:
        raise DataError("user histories: there are no interactions")
    rows = item_positions(item_ids, codes).get_indexer(pd.Index(interactions[ITEM_ID]))
    unknown = interactions[ITEM_ID][rows < 0]
    if len(unknown):
        names = ", ".join(map(repr, unknown.unique()[:5]))
        raise DataError(
            f"user histories: {len(unknown)} interactions with items that have no code: {names}"
        )
    if interactions[TIMESTAMP].isna().any():
        raise DataError(f"user histories: column {TIMESTAMP} has missing values")
    times = seconds(interactions[TIMESTAMP])
    users, user_ids = pd.factorize(interactions[USER_ID])
    order = np.lexsort((times, users))  # stable
    items, times, codes = interactions[ITEM_ID].to_numpy()[order], times[order], codes[rows[order]]
    ends = np.cumsum(np.bincount(users))
    starts = np.concatenate(([0], ends[:-1]))
    return {
        user: History(items[start:end].tolist(), times[start:end], codes[start:end], codebook_id)
        for user, start, end in zip(user_ids, starts.tolist(), ends.tolist(), strict=True)
    }


def item_positions(
    item_ids: Sequence[str] | pd.Index[str], codes: NDArray[np.uint8]
) -> pd.Index[str]:
    """Index item ids by place, one for each row of `codes`; an index is taken as it is.

    Raises:
        DataError: an item id occurs twice, or there are not as many codes as items.
    """
    # One that is there may have looked its places up.
    index = item_ids if isinstance(item_ids, pd.Index) else pd.Index(list(item_ids), dtype="object")
    if len(index) != len(codes):
        raise DataError(f"item codes: {len(index)} items and {len(codes)} codes")
    if not index.is_unique:
        raise DataError(f"item codes: item {index[index.duplicated()][0]!r} occurs twice")
    return index


def index_history(history: History, item_index: Mapping[str, int]) -> IndexedHistory:
    """Replace item ids by the model's indices; events of items it does not know are left out."""
    items = np.array(
        [item_index.get(item, PADDING_INDEX) for item in history.item_ids], dtype=np.int64
    )
    known = items != PADDING_INDEX
    return IndexedHistory(items[known], history.codes[known], history.times[known])
