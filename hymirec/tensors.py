"""From histories in a model's numbers to its inputs, alike in training and serving.

B users, L history length, N recent items. Padding is on the right and never read: every model
input comes with its true length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hymirec.inputs import IndexedHistory


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
        `recent_items` and `recent_times` int64 [B, N], `recent_length` int64 [B]; L and N are the
        longest in the batch, at least 1.
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
        "recent_items": pad(recent),
        "recent_times": pad([history.times[-num_recent:] for history in histories]),
        "recent_length": torch.tensor([len(part) for part in recent]),
    }


def pad(sequences: Sequence[NDArray[np.int64]]) -> Tensor:
    """Stack as int64 [B, longest], padded with 0 on the right; longest is at least 1."""
    padded = np.zeros((len(sequences), max(1, max(map(len, sequences)))), np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(padded)
