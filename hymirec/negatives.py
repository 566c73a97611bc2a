"""Sampled negatives, shared by a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_items(num_items: int, num_negatives: int, device: torch.device) -> Tensor:
    """Draw distinct item indices from 1..N, uniformly: int64 [min(num_negatives, N)].

    From a catalogue much larger than the sample, the draw is with replacement and duplicates are
    dropped, which costs nothing and loses next to none.
    """
    if num_negatives * 16 < num_items:
        return torch.randint(1, num_items + 1, (num_negatives,), device=device).unique()
    return torch.randperm(num_items, device=device)[:num_negatives] + 1
