"""Recommenders that predict the next item at every position of a sequence.

What they share: item vectors, the loss, and the answer to a request. A model adds how it turns a
sequence of item vectors into hidden states.

B users, T items, D width, P positions with a target, U distinct items, K negatives, N items of
the catalogue.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import normalize

from hymirec.examples import NextItemExamples
from hymirec.infonce import info_nce, log_mass
from hymirec.inputs import IndexedHistory
from hymirec.models.base import InterestRecommender, PlainBaseline, TrainedRecommender, TrainingData
from hymirec.models.layers import InputDropout, lookup, token_scale
from hymirec.models.towers import ItemVectors, Tower
from hymirec.negatives import NegativeSampler, Sampling, false_negatives
from hymirec.schema import PADDING_INDEX


class SequenceConfig(BaseModel):
    """Settings of what the models share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_recent: PositiveInt = 100
    """Most recent items that are read."""
    num_negatives: PositiveInt = 1024
    """Items a step that are no targets, at most."""
    sampling: Sampling = "uniform"
    """Where negatives come from, see `hymirec.negatives`."""
    temperature: PositiveFloat = 0.07
    """τ of InfoNCE."""
    item_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the items of a sequence that a training step does not read."""


class TowerRecommender(InterestRecommender, TrainedRecommender):
    """Reads recent items, and has an item tower that is trained with it."""

    def __init__(self, tower: Tower, config: SequenceConfig, dropout: float) -> None:
        """Make what the models share.

        Args:
            tower: gives the item vectors.
            config: settings.
            dropout: share of the coordinates of item vectors that a step leaves out.
        """
        super().__init__()
        self.tower = tower
        self.shared = config
        self.input_dropout = InputDropout(config.item_dropout, dropout)
        self.sampler = NegativeSampler(config.sampling, config.num_negatives, tower.occurrences)
        self._vectors: Tensor | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module._forget_vectors())

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

    def vectors_of(self, *items: Tensor) -> tuple[list[Tensor], Tensor]:
        """Ask the tower once for all items of a step.

        Returns:
            For each argument, int64 of any shape, unit vectors [its shape, D]; the tower's own
            loss.
        """
        distinct, place = torch.cat([part.flatten() for part in items]).unique(return_inverse=True)
        vectors, loss = self.tower(distinct)
        places = place.split([part.numel() for part in items])
        return [
            lookup(vectors, where).unflatten(0, part.shape)
            for where, part in zip(places, items, strict=True)
        ], loss


class SequenceRecommender(TowerRecommender):
    """One interest a user: the hidden state at the last item."""

    @abstractmethod
    def hidden(self, tokens: Tensor, lengths: Tensor, times: Tensor) -> Tensor:
        """Item vectors [B, T, D], one standard deviation a coordinate, to states [B, T, D].

        A state may depend on its own item and those before it, and on their `times` int64 [B, T],
        in seconds. Rows end after `lengths` int64 [B]; what the states are from there on is
        nobody's concern.
        """

    def examples(self, histories: Sequence[IndexedHistory]) -> NextItemExamples:
        """Runs of items, each of them predicted from those before it."""
        return NextItemExamples(histories, self.num_recent)

    def forward(self, items: Tensor, times: Tensor) -> dict[str, Tensor]:
        """Loss of predicting each item from those before it.

        Args:
            items: int64 [B, T + 1], padded on the right with 0.
            times: int64 [B, T + 1], seconds.

        Returns:
            `loss`: InfoNCE over the batch's P targets, K shared negatives each, 0 without any,
            and the tower's loss of text alone;
            `weight`: P.
        """
        # Drawn first: processes that share a batch draw alike only before dropout.
        negatives = self.sampler(items[:, 1:])
        (sequence, against), text_loss = self.vectors_of(items, negatives.items)
        real = items[:, 1:] != PADDING_INDEX
        lengths = (items != PADDING_INDEX).sum(dim=1) - 1
        states = self._states(sequence[:, :-1], lengths, times[:, :-1])
        users = normalize(states[real], dim=1)  # [P, D]
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
        states = self._states(self.item_vectors()[items], length, inputs["recent_times"])
        rows = torch.arange(len(items), device=items.device)
        last = normalize(states[rows, (length - 1).clamp(min=0)], dim=1)
        return (last * (length > 0)[:, None])[:, None]

    def _states(self, sequence: Tensor, lengths: Tensor, times: Tensor) -> Tensor:
        return self.hidden(self.input_dropout(token_scale(sequence)), lengths, times)


class IdConfig(SequenceConfig):
    """Settings of what models by id share."""

    width: PositiveInt = 64
    """Of the item vectors: D."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of coordinates left out."""


class ById(TowerRecommender, PlainBaseline):
    """A model that knows an item by nothing but the vector it learns for it."""

    tower: ItemVectors
    config_type: ClassVar[type[IdConfig]]

    @classmethod
    def build(cls, data: TrainingData, settings: IdConfig) -> Self:
        """Make an untrained model."""
        return cls(data.occurrences, settings)

    def __init__(self, occurrences: Tensor, config: IdConfig) -> None:
        """Make what the models share; `occurrences` [N + 1] counts items in training."""
        super().__init__(ItemVectors(occurrences, config.width), config, config.dropout)
        self.settings = config

    @classmethod
    def shaped(cls, settings: IdConfig, weights: Mapping[str, Tensor]) -> Self:
        """Untrained, for as many items as the weights have."""
        return cls(weights["tower.occurrences"], settings)


class IdRecommender(ById, SequenceRecommender):
    """One that predicts the next item at every position."""
