"""PatchRec: items and sessions as patches of text (Liao et al., SIGIR 2025).

A language model that reads every token of every title of a history is slow, so tokens are pooled:
an item into one patch, the mean of its tokens, and several old items into one session patch, the
mean of theirs. The model learns both grains: a share of the training steps reads items alone (the
paper's patch pre-training), the others read old items by session (its fine-tuning); a request
reads old items by session. The paper generates titles; ranked among the whole catalogue, as in
HyMiRec's comparison, the next item is the patch nearest to what the model says.

B users, T items, P patches, D width, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import normalize

from hymirec.encoder import PADDING_TOKEN, count_tokens, tokenise, train_tokenizer
from hymirec.models.base import PlainBaseline, TrainingData
from hymirec.models.layers import BackboneConfig, build_backbone
from hymirec.models.sequence import IdConfig, SequenceRecommender
from hymirec.models.towers import Tower
from hymirec.schema import PADDING_INDEX
from hymirec.texts import item_texts


class PatchRecConfig(IdConfig):
    """Settings of the model."""

    backbone: BackboneConfig = BackboneConfig()
    vocab_size: PositiveInt = 4096
    max_tokens: PositiveInt = 32
    num_single: PositiveInt = 30
    """Most recent items that are read one by one; at most so many and a session less one are."""
    session_size: PositiveInt = 5
    """Items of a session patch."""
    session_share: float = Field(0.5, ge=0, le=1)
    """Training steps that read old items by session."""


class TokenPatches(Tower):
    """An item as the mean of its tokens' vectors."""

    tokens: Tensor

    def __init__(self, tokens: Tensor, vocab_size: int, width: int, occurrences: Tensor) -> None:
        """Make it from token ids int64 [N + 1, tokens], padded with `PADDING_TOKEN`."""
        super().__init__()
        self.table = nn.Embedding(vocab_size, width)
        self.register_buffer("tokens", tokens)
        self.register_buffer("occurrences", occurrences)

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct item indices [U] to unit vectors [U, D]; no loss: 0."""
        tokens = self.tokens[items]
        real = (tokens != PADDING_TOKEN)[..., None]
        mean = (self.table(tokens.clamp(min=0)) * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        return normalize(mean, dim=1), mean.new_zeros(())

    @torch.no_grad()
    def embeddings(self) -> Tensor:
        """All of them, [N + 1, D] at unit length; row 0, padding, is zero."""
        vectors, _ = self(torch.arange(len(self.tokens), device=self.tokens.device))
        vectors[PADDING_INDEX] = 0
        return vectors


class PatchRec(SequenceRecommender, PlainBaseline):
    """A language model's layers over patches."""

    config_type = PatchRecConfig
    settings: PatchRecConfig
    tower: TokenPatches

    def __init__(
        self, tower: TokenPatches, config: PatchRecConfig, *, saved: Path | None = None
    ) -> None:
        """Make a model; `saved` as in `hymirec.models.layers.build_backbone`."""
        super().__init__(tower, config, config.dropout)
        self.settings = config
        self.start = nn.Parameter(torch.randn(config.width))
        self.backbone = build_backbone(
            config.width, config.backbone, max_tokens=config.num_recent + 1, saved=saved
        )

    @classmethod
    def build(cls, data: TrainingData, settings: PatchRecConfig) -> Self:
        """Make an untrained model."""
        texts = item_texts(data.items)
        tokenizer = train_tokenizer(texts, settings.vocab_size)
        tokens = tokenise(tokenizer, texts, settings.max_tokens, item_token=False)
        tokens = torch.cat([torch.full((1, tokens.shape[1]), PADDING_TOKEN), tokens])
        tower = TokenPatches(tokens, count_tokens(tokenizer), settings.width, data.occurrences)
        return cls(tower, settings)

    def hidden(self, tokens: Tensor, lengths: Tensor, times: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]: what is read after the last patch that is whole by then."""
        by_session = not self.training or bool(torch.rand(()) < self.settings.session_share)
        size = self.settings.session_size
        sessions = (lengths - self.settings.num_single).clamp(min=0) // size if by_session else (
            torch.zeros_like(lengths)
        )  # fmt: skip
        sessions = sessions[:, None]  # [B, 1]
        place = torch.arange(tokens.shape[1], device=tokens.device)
        single = place - sessions * (size - 1)  # [B, T], patch of an item read alone
        old = place < sessions * size
        patch = torch.where(old, place // size, single)
        whole = torch.where(old, (place + 1) // size, single + 1)  # patches, by then

        shape = (len(tokens), int(patch.max()) + 1)
        sums = tokens.new_zeros(*shape, tokens.shape[2])
        sums.scatter_add_(1, patch[..., None].expand_as(tokens), tokens)
        counts = tokens.new_zeros(shape).scatter_add_(1, patch, torch.ones_like(tokens[..., 0]))
        patches = sums / counts.clamp(min=1)[..., None]
        start = self.start.expand(len(tokens), 1, -1)
        states = self.backbone(inputs_embeds=torch.cat([start, patches], 1)).last_hidden_state
        return states.gather(1, whole[..., None].expand_as(tokens))

    @classmethod
    def shaped(cls, settings: PatchRecConfig, weights: Mapping[str, Tensor]) -> Self:
        """Untrained, for the tokens and the vocabulary of the weights."""
        vocabulary, width = weights["tower.table.weight"].shape
        tower = TokenPatches(
            weights["tower.tokens"], vocabulary, width, weights["tower.occurrences"]
        )
        return cls(tower, settings)
