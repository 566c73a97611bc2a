"""The first stage: a causal backbone that predicts the next item at every position.

It trains the item embeddings end to end, as HLLM does (Chen et al., 2024), quickly because every
position of every history is a target; HyMiRec then starts from its items and its backbone.

B users, T items, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from safetensors.torch import load_file, save_file
from torch import Tensor

from hymirec.encoder import EncoderConfig, ItemTower
from hymirec.models.layers import BackboneConfig, build_backbone
from hymirec.models.sequence import SequenceConfig, SequenceRecommender


class NextItemConfig(SequenceConfig):
    """Settings of the first stage."""

    backbone: BackboneConfig = BackboneConfig()


class NextItemRecommender(SequenceRecommender):
    """A language model's layers over the items that the content encoder reads."""

    tower: ItemTower

    def __init__(self, tower: ItemTower, config: NextItemConfig) -> None:
        super().__init__(tower, config, config.backbone.dropout)
        self.settings = config
        self.backbone = build_backbone(tower.settings.width, config.backbone)

    def hidden(self, tokens: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        return self.backbone(inputs_embeds=tokens).last_hidden_state

    def save(self, directory: Path) -> None:
        """Write settings and weights."""
        directory.mkdir(parents=True)
        settings = {
            "encoder": self.tower.settings.model_dump(mode="json"),
            "first_stage": self.settings.model_dump(mode="json"),
            "vocab_size": self.tower.encoder.backbone.config.vocab_size,
        }
        (directory / "settings.json").write_text(json.dumps(settings, indent=2))
        save_file(self.state_dict(), directory / "weights.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""
        settings = json.loads((directory / "settings.json").read_text())
        weights = load_file(directory / "weights.safetensors")
        tower = ItemTower(
            EncoderConfig.model_validate(settings["encoder"]),
            weights["tower.tokens"],
            settings["vocab_size"],
            weights["tower.occurrences"],
        )
        model = cls(tower, NextItemConfig.model_validate(settings["first_stage"]))
        model.load_state_dict(weights)
        return model.eval()
