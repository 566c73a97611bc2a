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
from hymirec.models.pretrained import save_architecture, without_adapters
from hymirec.models.sequence import SequenceConfig, SequenceRecommender


class NextItemConfig(SequenceConfig):
    """Settings of the first stage."""

    backbone: BackboneConfig = BackboneConfig()


class NextItemRecommender(SequenceRecommender):
    """A language model's layers over the items that the content encoder reads."""

    tower: ItemTower

    def __init__(
        self, tower: ItemTower, config: NextItemConfig, *, saved: Path | None = None
    ) -> None:
        """Make a model; `saved` as in `hymirec.models.layers.build_backbone`."""
        super().__init__(tower, config, config.backbone.dropout)
        self.settings = config
        self.backbone = build_backbone(
            tower.settings.width, config.backbone, max_tokens=config.num_recent, saved=saved
        )

    def hidden(self, tokens: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        return self.backbone(inputs_embeds=tokens).last_hidden_state

    def save(self, directory: Path) -> None:
        """Write settings and weights, those of a pretrained backbone among them."""
        directory.mkdir(parents=True)
        settings = {
            "encoder": self.tower.settings.model_dump(mode="json"),
            "first_stage": self.settings.model_dump(mode="json"),
            "vocab_size": self.tower.encoder.vocab_size,
        }
        (directory / "settings.json").write_text(json.dumps(settings, indent=2))
        save_file(without_adapters(self).state_dict(), directory / "weights.safetensors")
        save_architecture(self.tower.encoder.backbone, directory / "encoder")
        save_architecture(self.backbone, directory / "backbone")

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
            saved=directory / "encoder",
        )
        config = NextItemConfig.model_validate(settings["first_stage"])
        model = cls(tower, config, saved=directory / "backbone")
        model.load_state_dict(weights)
        return model.eval()
