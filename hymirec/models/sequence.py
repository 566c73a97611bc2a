"""Recommenders that predict the next item at every position of a sequence.

What they share: item vectors, the loss, and the answer to a request. A model adds how it turns a
sequence of item vectors into hidden states.

B users, T items, D width, P positions with a target, U distinct items, K negatives, N items of
the catalogue.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import normalize

from hymirec.encoder import START_SIZE, ItemTower
from hymirec.infonce import info_nce, log_mass
from hymirec.models.base import InterestRecommender
from hymirec.models.layers import token_scale
from hymirec.negatives import NegativeSampler, Sampling, false_negatives
from hymirec.schema import PADDING_INDEX


class SequenceConfig(BaseModel):
    """Settings of what the models share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_recent: PositiveInt = 100
    num_negatives: PositiveInt = 1024
    sampling: Sampling = "uniform"
    temperature: PositiveFloat = 0.07


class ItemVectors(nn.Module):
    """A learnt vector for each item and nothing else: the items of models by id."""

    occurrences: Tensor

    def __init__(self, occurrences: Tensor, width: int) -> None:
        """Make vectors of width D; `occurrences` [N + 1] as `ItemTower` has it."""
        super().__init__()
        self.vectors = nn.Embedding(len(occurrences), width)
        # Only directions count: the shorter a vector, the further a step turns it. Unit vectors
        # took six epochs to learn what these learn in one.
        nn.init.normal_(self.vectors.weight, std=START_SIZE)
        self.register_buffer("occurrences", occurrences)

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct item indices [U] to unit vectors [U, D]; no text, no loss of text: 0."""
        vectors = normalize(self.vectors(items), dim=1)
        return vectors, vectors.new_zeros(())

    @torch.no_grad()
    def embeddings(self) -> Tensor:
        """All of them, [N + 1, D] at unit length; row 0, padding, is zero."""
        vectors = normalize(self.vectors.weight, dim=1)
        vectors[PADDING_INDEX] = 0
        return vectors


class SequenceRecommender(InterestRecommender):
    """One interest a user: the hidden state at the last item."""

    def __init__(
        self, tower: ItemTower | ItemVectors, config: SequenceConfig, dropout: float
    ) -> None:
        """Make what the models share.

        Args:
            tower: gives the item vectors.
            config: settings.
            dropout: share of the coordinates of item vectors that a step leaves out.
        """
        super().__init__()
        self.tower = tower
        self.shared = config
        self.input_dropout = nn.Dropout(dropout)
        self.sampler = NegativeSampler(config.sampling, config.num_negatives, tower.occurrences)
        self._vectors: Tensor | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module._forget_vectors())

    @abstractmethod
    def hidden(self, tokens: Tensor) -> Tensor:
        """Item vectors [B, T, D], one standard deviation a coordinate, to states [B, T, D].

        A state may depend on its own item and those before it.
        """

    @property
    def num_recent(self) -> int:
        """Items of a history that are read."""
        return self.shared.num_recent

    @property
    def max_history(self) -> int:
        """There is no coarse path: no codes are read."""
        return 1

    def train(self, mode: bool = True) -> Self:
        """Set the mode; item vectors computed before are forgotten."""
        self._forget_vectors()
        return super().train(mode)

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
            `loss`: InfoNCE over the batch's P targets, K shared negatives each, 0 without any,
            and the tower's loss of text alone;
            `weight`: P.
        """
        # Drawn first: processes that share a batch draw alike only before dropout.
        negatives = self.sampler(items[:, 1:])
        distinct, place = torch.cat([items.flatten(), negatives.items]).unique(return_inverse=True)
        vectors, text_loss = self.tower(distinct)  # [U, D]
        sequence = vectors[place[: items.numel()]].unflatten(0, items.shape)
        against = vectors[place[items.numel() :]]  # [K, D]

        real = items[:, 1:] != PADDING_INDEX
        users = normalize(self._states(sequence[:, :-1])[real], dim=1)  # [P, D]
        targets = items[:, 1:][real]
        toward = (users * sequence[:, 1:][real]).sum(dim=1) / self.shared.temperature
        mass, _ = log_mass(
            users[:, None],
            against,
            negatives.correction,
            false_negatives(targets[:, None], negatives.items, len(self.tower.occurrences) - 1),
            temperature=self.shared.temperature,
        )
        weight = real.sum()
        loss = info_nce(toward, mass[:, 0]).sum() / weight.clamp(min=1)
        return {"loss": loss + text_loss, "weight": weight}

    @torch.no_grad()
    def encode_user(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Recent items to one interest a user, [B, 1, D]; zero for an empty history."""
        items, length = inputs["recent_items"], inputs["recent_length"]
        states = self._states(self.item_vectors()[items])
        rows = torch.arange(len(items), device=items.device)
        last = normalize(states[rows, (length - 1).clamp(min=0)], dim=1)
        return (last * (length > 0)[:, None])[:, None]

    def _states(self, sequence: Tensor) -> Tensor:
        return self.hidden(self.input_dropout(token_scale(sequence)))
