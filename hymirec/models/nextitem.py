"""The first stage: a causal backbone that predicts the next item at every position.

It trains the item embeddings end to end, as HLLM does (Chen et al., 2024), quickly because every
position of every history is a target; HyMiRec then starts from its items and its backbone.

B users, T items, D width.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from hymirec.encoder import ItemTower
from hymirec.models.layers import BackboneConfig, build_backbone
from hymirec.models.sequence import SequenceConfig
from hymirec.models.text import TextRecommender


class NextItemConfig(SequenceConfig):
    """Settings of the first stage."""

    backbone: BackboneConfig = BackboneConfig()
    """The layers over the items' embeddings."""


class NextItemRecommender(TextRecommender):
    """A language model's layers over the items that the content encoder reads."""

    config_type = NextItemConfig

    def __init__(
        self, tower: ItemTower, config: NextItemConfig, *, saved: Path | None = None
    ) -> None:
        """Make a model; `saved` as in `hymirec.models.layers.build_backbone`."""
        super().__init__(tower, config, config.backbone.dropout)
        self.settings = config
        self.backbone = build_backbone(
            tower.settings.width, config.backbone, max_tokens=config.num_recent, saved=saved
        )

    def hidden(self, tokens: Tensor, lengths: Tensor, times: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        return self.backbone(inputs_embeds=tokens).last_hidden_state
