"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

A learnt vector for each item and each position, causal Transformer blocks, the next item at every
position. Two things are as today's comparisons have them and not as in 2018: the loss is InfoNCE
over shared sampled negatives in place of binary cross-entropy with one (Klenitskiy and Vasilev,
RecSys 2023, found the difference to be larger than that between models), and items are compared by
cosine over a temperature.

B users, T items, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from pydantic import Field, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hymirec.models.layers import BackboneConfig, CausalBlock
from hymirec.models.sequence import ItemVectors, SequenceConfig, SequenceRecommender


class SASRecConfig(SequenceConfig):
    """Settings of the model."""

    width: PositiveInt = 64
    num_layers: PositiveInt = 2
    num_heads: PositiveInt = 2
    expansion: PositiveInt = 4
    dropout: float = Field(0.2, ge=0, lt=1)


class SASRec(SequenceRecommender):
    """Causal self-attention over item vectors."""

    tower: ItemVectors

    def __init__(self, occurrences: Tensor, config: SASRecConfig) -> None:
        """Make an untrained model; `occurrences` [N + 1] counts items in training."""
        super().__init__(ItemVectors(occurrences, config.width), config, config.dropout)
        self.settings = config
        self.positions = nn.Parameter(0.02 * torch.randn(config.num_recent, config.width))
        block = BackboneConfig(
            num_heads=config.num_heads, expansion=config.expansion, dropout=config.dropout
        )
        self.blocks = nn.Sequential(
            *(CausalBlock(config.width, block) for _ in range(config.num_layers))
        )
        self.norm = nn.RMSNorm(config.width)

    def hidden(self, tokens: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]; positions count from the first item."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        positions = self.positions[place.clamp(max=len(self.positions) - 1)]  # past it is padding
        return self.norm(self.blocks(tokens + positions))

    def save(self, directory: Path) -> None:
        """Write settings and weights."""
        directory.mkdir(parents=True)
        (directory / "settings.json").write_text(self.settings.model_dump_json(indent=2))
        save_file(self.state_dict(), directory / "weights.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""
        settings = SASRecConfig.model_validate_json((directory / "settings.json").read_text())
        weights = load_file(directory / "weights.safetensors")
        model = cls(weights["tower.occurrences"], settings)
        model.load_state_dict(weights)
        return model.eval()
