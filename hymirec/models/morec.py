"""MoRec: modality in place of item ids (Yuan et al., SIGIR 2023).

SASRec whose item vectors a text encoder makes, trained end to end with it.

B users, T items, D width.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt
from torch import Tensor

from hymirec.encoder import ItemTower
from hymirec.models.layers import BackboneConfig
from hymirec.models.sasrec import PositionedBlocks
from hymirec.models.text import TextBaseline, TextConfig


class MoRecConfig(TextConfig):
    """Settings of the model."""

    num_layers: PositiveInt = 2
    num_heads: PositiveInt = 2
    expansion: PositiveInt = 4
    dropout: float = Field(0.2, ge=0, lt=1)


class MoRec(TextBaseline):
    """SASRec's blocks over what the content encoder reads."""

    config_type = MoRecConfig

    def __init__(self, tower: ItemTower, config: MoRecConfig, *, saved: Path | None = None) -> None:
        """Make an untrained model; nothing of its own is read from `saved`."""
        super().__init__(tower, config, config.dropout)
        self.settings = config
        self.blocks = PositionedBlocks(
            tower.settings.width,
            BackboneConfig(
                num_layers=config.num_layers,
                num_heads=config.num_heads,
                expansion=config.expansion,
                dropout=config.dropout,
            ),
            num_positions=config.num_recent,
        )

    def hidden(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        return self.blocks(tokens)
