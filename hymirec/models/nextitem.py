"""The first stage: a causal backbone that predicts the next item at every position.

It trains the item embeddings end to end, as HLLM does (Chen et al., 2024), quickly because every
position of every history is a target; HyMiRec then starts from its items and its backbone.

B users, T items, D width, P positions with a target, U distinct items, K negatives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from hymirec.encoder import EncoderConfig, ItemTower
from hymirec.models.base import InterestRecommender
from hymirec.models.layers import BackboneConfig, build_backbone, token_scale
from hymirec.models.pretrained import save_architecture, without_adapters
from hymirec.negatives import sample_items


class NextItemConfig(BaseModel):
    """Settings of the first stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: BackboneConfig = BackboneConfig()
    num_recent: PositiveInt = 100
    num_negatives: PositiveInt = 1024
    temperature: PositiveFloat = 0.07


class NextItemRecommender(InterestRecommender):
    """One interest a user: the backbone's output at the last item."""

    def __init__(
        self, tower: ItemTower, config: NextItemConfig, *, saved: Path | None = None
    ) -> None:
        """Make a model; `saved` as in `hymirec.models.layers.build_backbone`."""
        super().__init__()
        self.settings = config
        self.tower = tower
        self.backbone = build_backbone(
            tower.settings.width, config.backbone, max_tokens=config.num_recent, saved=saved
        )
        self.input_dropout = nn.Dropout(config.backbone.dropout)
        self._vectors: Tensor | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module._forget_vectors())

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
            weights["tower.trained"],
            saved=directory / "encoder",
        )
        config = NextItemConfig.model_validate(settings["first_stage"])
        model = cls(tower, config, saved=directory / "backbone")
        model.load_state_dict(weights)
        return model.eval()

    @property
    def num_recent(self) -> int:
        """Items of a history that are read."""
        return self.settings.num_recent

    @property
    def max_history(self) -> int:
        """The first stage has no coarse path: it reads no codes."""
        return 1

    def train(self, mode: bool = True) -> NextItemRecommender:
        """Set the mode; item vectors computed before are forgotten."""
        self._forget_vectors()
        super().train(mode)
        return self

    def _forget_vectors(self) -> None:
        self._vectors = None

    def item_vectors(self) -> Tensor:
        """[N + 1, D]; computed once while the model stays in evaluation mode."""
        if self.training:
            return self.tower.embeddings()
        if self._vectors is None:
            self._vectors = self.tower.embeddings()
        return self._vectors

    def forward(self, items: Tensor) -> dict[str, Tensor]:
        """Loss of predicting each item from those before it.

        Args:
            items: int64 [B, T + 1], padded on the right with 0.

        Returns:
            `loss`: InfoNCE over the batch's P targets, K shared negatives each.
        """
        negatives = sample_items(self.tower.num_items, self.settings.num_negatives, items.device)
        distinct, place = torch.cat([items.flatten(), negatives]).unique(return_inverse=True)
        vectors = self.tower(distinct)  # [U, D]
        sequence = vectors[place[: items.numel()]].unflatten(0, items.shape)
        against = vectors[place[items.numel() :]]  # [K, D]

        hidden = self._hidden(sequence[:, :-1])
        real = items[:, 1:] != 0
        users = normalize(hidden[real], dim=1)  # [P, D]
        toward = (users * sequence[:, 1:][real]).sum(dim=1) / self.settings.temperature
        logits = users @ against.T / self.settings.temperature
        is_target = items[:, 1:][real][:, None] == negatives
        logits = logits.masked_fill(is_target, -torch.inf)
        return {"loss": (torch.logaddexp(toward, logits.logsumexp(dim=1)) - toward).mean()}

    @torch.no_grad()
    def encode_user(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Recent items to one interest a user, [B, 1, D]; zero for an empty history."""
        items, length = inputs["recent_items"], inputs["recent_length"]
        hidden = self._hidden(self.item_vectors()[items])
        rows = torch.arange(len(items), device=items.device)
        last = normalize(hidden[rows, (length - 1).clamp(min=0)], dim=1)
        return (last * (length > 0)[:, None])[:, None]

    def _hidden(self, sequence: Tensor) -> Tensor:
        """Unit item vectors [B, T, D] to hidden states [B, T, D]."""
        tokens = self.input_dropout(token_scale(sequence))
        return self.backbone(inputs_embeds=tokens).last_hidden_state
