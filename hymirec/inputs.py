"""From a history to model inputs: the only transforms, used alike in training and serving.

B users, L history length, N recent items. Padding is on the right and never read: every model
input comes with its true length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hymirec.history import History
from hymirec.schema import ITEM_ID, PADDING_INDEX, USER_ID


@dataclass(frozen=True)
class IndexedHistory:
    """A history in the numbers of one model, oldest event first.

    Attributes:
        items: int64 [L], item indices, never padding.
        codes: uint8 [L, bytes per item].
    """

    items: NDArray[np.int64]
    codes: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.items)

    def until(self, end: int) -> IndexedHistory:
        """Return the first `end` events: what was known before event `end`."""
        return IndexedHistory(self.items[:end], self.codes[:end])


def index_interactions(
    interactions: pd.DataFrame, item_index: Mapping[str, int]
) -> list[IndexedHistory]:
    """Canonical interactions to one history a user, without codes: what the encoder learns from.

    Users come in the order of the table; every item has to be in `item_index`.
    """
    items = interactions[ITEM_ID].map(item_index).to_numpy().astype(np.int64)
    users, _ = pd.factorize(interactions[USER_ID])
    starts = np.flatnonzero(np.diff(users)) + 1
    return [
        IndexedHistory(part, np.zeros((len(part), 0), dtype=np.uint8))
        for part in np.split(items, starts)
    ]


def number_items(item_ids: Sequence[str]) -> dict[str, int]:
    """Give items the indices 1..N in the order they come in."""
    return {item: place for place, item in enumerate(item_ids, start=1)}


def index_history(history: History, item_index: Mapping[str, int]) -> IndexedHistory:
    """Replace item ids by the model's indices; events of items it does not know are left out."""
    items = np.array(
        [item_index.get(item, PADDING_INDEX) for item in history.item_ids], dtype=np.int64
    )
    known = items != PADDING_INDEX
    return IndexedHistory(items[known], history.codes[known])


def assemble(
    histories: Sequence[IndexedHistory], *, max_history: int, num_recent: int
) -> dict[str, Tensor]:
    """Make one batch of model inputs.

    Args:
        histories: B histories; an empty one is allowed and has length 0.
        max_history: the most recent events that the coarse path reads.
        num_recent: the most recent events whose items the refined path reads.

    Returns:
        `history_codes` uint8 [B, L, bytes per item], `history_length` int64 [B],
        `recent_items` int64 [B, N], `recent_length` int64 [B]; L and N are the longest in the
        batch, at least 1.
    """
    coarse = [history.codes[-max_history:] for history in histories]
    recent = [history.items[-num_recent:] for history in histories]
    longest = max(1, max(map(len, coarse)))
    codes = np.zeros((len(histories), longest, histories[0].codes.shape[1]), dtype=np.uint8)
    for row, part in zip(codes, coarse, strict=True):
        row[: len(part)] = part
    return {
        "history_codes": torch.from_numpy(codes),
        "history_length": torch.tensor([len(part) for part in coarse]),
        "recent_items": pad_items(recent),
        "recent_length": torch.tensor([len(part) for part in recent]),
    }


def pad_items(sequences: Sequence[NDArray[np.int64]]) -> Tensor:
    """Stack index sequences as int64 [B, longest], padded on the right; longest is at least 1."""
    padded = np.full((len(sequences), max(1, max(map(len, sequences)))), PADDING_INDEX, np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(padded)
