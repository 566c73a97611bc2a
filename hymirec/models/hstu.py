"""HSTU: hierarchical sequential transduction units (Zhai et al., ICML 2024).

Attention whose weights are not a distribution: SiLU of the logits over the length, so that the
number of relevant events is seen and not only their mix; and a gate in place of a feed-forward
layer. Logits have a bias for how many events, and one for how many seconds, lie between two events.

B users, T items, D width.
"""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from hymirec.models.layers import lookup
from hymirec.models.sequence import IdConfig, IdRecommender


class HSTUConfig(IdConfig):
    """Settings of the model."""

    num_layers: PositiveInt = 2
    """Of gated attention."""
    num_heads: PositiveInt = 2
    """Of the attention."""


class HSTU(IdRecommender):
    """Gated pointwise attention over item vectors."""

    config_type = HSTUConfig

    def __init__(self, occurrences: Tensor, config: HSTUConfig) -> None:
        """Make an untrained model; `occurrences` [N + 1] counts items in training."""
        super().__init__(occurrences, config)
        self.units = nn.ModuleList(TransductionUnit(config) for _ in range(config.num_layers))

    def hidden(self, tokens: Tensor, lengths: Tensor, times: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        age = age_of(times)
        for unit in self.units:
            tokens = unit(tokens, age)
        return tokens


NUM_AGES = 32
"""Seconds between events are told apart in powers of two, up to 2³¹ and more: 68 years."""


def age_of(times: Tensor) -> Tensor:
    """Seconds [B, T] to classes [B, T, T] of how long before the row's event the column's was.

    0 within a second, 1 after one, 2 after two or three, 3 from four on; 0 too for what lies ahead.
    """
    # In float64, log2 of a whole number below 2⁵³ never crosses a power of two by rounding.
    passed = (times[:, :, None] - times[:, None]).clamp(min=0).double()
    return (passed.log2().floor() + 1).clamp(0, NUM_AGES - 1).long()


class TransductionUnit(nn.Module):
    """One layer: projection, aggregation, transformation (the paper's equations 1 to 3)."""

    def __init__(self, config: HSTUConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.num_positions = config.num_recent
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 4 * width)  # f1: U, V, Q, K
        self.distance_bias = nn.Parameter(0.02 * torch.randn(config.num_recent))
        self.age_bias = nn.Parameter(0.02 * torch.randn(NUM_AGES))
        self.dropout = nn.Dropout(config.dropout)
        self.transform = nn.Linear(width, width)  # f2

    def forward(self, tokens: Tensor, age: Tensor) -> Tensor:
        """[B, T, D], and classes [B, T, T] of `age_of`, to [B, T, D]."""
        gate, value, query, key = silu(self.project(self.norm(tokens))).chunk(4, dim=2)
        value, query, key = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in (value, query, key)
        )
        place = torch.arange(tokens.shape[1], device=tokens.device)
        distance = place[:, None] - place  # [T, T], how far back
        distance_bias = lookup(self.distance_bias, distance.clamp(0, self.num_positions - 1))
        bias = distance_bias + lookup(self.age_bias, age)
        # Over the longest length and not over that of a batch, on which no answer may depend.
        weights = silu(query @ key.transpose(2, 3) + bias[:, None]) / self.num_positions
        seen = (weights * (distance >= 0)) @ value  # [B, heads, T, D / heads]
        seen = seen.transpose(1, 2).flatten(2)
        seen = layer_norm(seen, seen.shape[-1:], eps=1e-6) * gate
        return tokens + self.transform(self.dropout(seen))
