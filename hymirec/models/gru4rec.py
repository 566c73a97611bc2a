"""GRU4Rec: recurrent networks for sequences of events (Hidasi et al., ICLR 2016).

A gated recurrent unit over item vectors; its state after each item predicts the next. The ranking
loss over a batch's own items gives way to InfoNCE over many more shared negatives, the direction
its authors took too (Hidasi and Karatzoglou, CIKM 2018).

B users, T items, D width.
"""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor, nn

from hymirec.models.sequence import IdConfig, IdRecommender


class GRU4RecConfig(IdConfig):
    """Settings of the model."""

    num_layers: PositiveInt = 1
    """Recurrent ones."""
    hidden_width: PositiveInt = 128
    """Of the recurrent state."""


class GRU4Rec(IdRecommender):
    """A recurrent state over item vectors."""

    config_type = GRU4RecConfig

    def __init__(self, occurrences: Tensor, config: GRU4RecConfig) -> None:
        """Make an untrained model; `occurrences` [N + 1] counts items in training."""
        super().__init__(occurrences, config)
        self.recurrence = nn.GRU(
            config.width,
            config.hidden_width,
            config.num_layers,
            batch_first=True,
            dropout=config.dropout if config.num_layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.to_items = nn.Linear(config.hidden_width, config.width)

    def hidden(self, tokens: Tensor, lengths: Tensor, times: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        states, _ = self.recurrence(tokens)
        return self.to_items(self.dropout(states))
