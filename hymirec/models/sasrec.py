"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

A learnt vector for each item and each position, causal Transformer blocks, the next item at every
position. Two things are as today's comparisons have them and not as in 2018: the loss is InfoNCE
over shared sampled negatives in place of binary cross-entropy with one (Klenitskiy and Vasilev,
RecSys 2023, found the difference to be larger than that between models), and items are compared by
cosine over a temperature.

B users, T items, D width.
"""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hymirec.models.layers import BackboneConfig, CausalBlock, lookup
from hymirec.models.sequence import IdConfig, IdRecommender, SequenceConfig


class BlocksConfig(SequenceConfig):
    """Settings of models with SASRec's body."""

    num_layers: PositiveInt = 2
    """Transformer layers."""
    num_heads: PositiveInt = 2
    """Of the attention."""
    expansion: PositiveInt = 4
    """Width of the feed-forward layer, in widths of the model."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of activations left out."""


class SASRecConfig(IdConfig, BlocksConfig):
    """Settings of the model."""


class SASRec(IdRecommender):
    """Causal self-attention over item vectors."""

    config_type = SASRecConfig

    def __init__(self, occurrences: Tensor, config: SASRecConfig) -> None:
        """Make an untrained model; `occurrences` [N + 1] counts items in training."""
        super().__init__(occurrences, config)
        self.blocks = PositionedBlocks(config.width, config)

    def hidden(self, tokens: Tensor, lengths: Tensor, times: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        return self.blocks(tokens)


class PositionedBlocks(nn.Module):
    """SASRec's body: learnt positions, causal blocks, a norm."""

    def __init__(self, width: int, config: BlocksConfig) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(config.num_recent, width))
        block = BackboneConfig(
            num_heads=config.num_heads, expansion=config.expansion, dropout=config.dropout
        )
        self.layers = nn.Sequential(*(CausalBlock(width, block) for _ in range(config.num_layers)))
        self.norm = nn.RMSNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]; positions count from the first item."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        last = len(self.positions) - 1  # past it is padding
        return self.norm(self.layers(tokens + lookup(self.positions, place.clamp(max=last))))
