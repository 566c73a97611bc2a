"""MoRec: modality in place of item ids (Yuan et al., SIGIR 2023).

SASRec whose item vectors a text encoder makes, trained end to end with it.

B users, T items, D width.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from hymirec.encoder import ItemTower
from hymirec.models.sasrec import BlocksConfig, PositionedBlocks
from hymirec.models.text import TextBaseline, TextConfig


class MoRecConfig(TextConfig, BlocksConfig):
    """Settings of the model."""


class MoRec(TextBaseline):
    """SASRec's blocks over what the content encoder reads."""

    config_type = MoRecConfig

    def __init__(self, tower: ItemTower, config: MoRecConfig, *, saved: Path | None = None) -> None:
        """Make an untrained model; nothing of its own is read from `saved`."""
        super().__init__(tower, config, config.dropout)
        self.settings = config
        self.blocks = PositionedBlocks(tower.settings.width, config)

    def hidden(self, tokens: Tensor, lengths: Tensor, times: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        return self.blocks(tokens)
