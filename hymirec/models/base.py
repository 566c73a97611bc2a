"""The contract that every recommender keeps.

B users, S interests, D width, N items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd
import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hymirec.examples import Examples
from hymirec.inputs import IndexedHistory
from hymirec.splits import count_items
from hymirec.tensors import assemble
from hymirec.transitions import Transitions


class Recommender(nn.Module, ABC):
    """Scores all items for users, from the model inputs that `hymirec.tensors.assemble` makes."""

    @property
    @abstractmethod
    def max_history(self) -> int:
        """Most recent events whose codes the model can read."""

    @property
    @abstractmethod
    def num_recent(self) -> int:
        """Most recent items the model reads one by one."""

    def assemble(self, histories: Sequence[IndexedHistory]) -> dict[str, Tensor]:
        """Make a batch of the inputs that this model reads, see `hymirec.tensors.assemble`."""
        return assemble(histories, max_history=self.max_history, num_recent=self.num_recent)

    @abstractmethod
    def score(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Model inputs to the scores of all items, [B, N + 1]; column 0 is padding."""


class InterestRecommender(Recommender):
    """Users as S interests, items as vectors, a score as the best cosine between the two.

    Attributes:
        transitions: what is added to the cosines; None adds nothing. Of all models HyMiRec alone
            keeps them when it is saved.
    """

    transitions: Transitions | None = None

    @abstractmethod
    def encode_user(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Model inputs to interests [B, S, D] at unit length; zero for an empty history."""

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """[N + 1, D] at unit length; row 0, padding, is zero."""

    def score(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Best cosine over the interests, in -1..1, and what transitions add to it."""
        interests = self.encode_user(inputs)
        scores = (interests @ self.item_vectors().T).amax(dim=1)
        if self.transitions is None:
            return scores
        items, lengths = inputs["recent_items"].cpu().numpy(), inputs["recent_length"].tolist()
        recent = [row[:length] for row, length in zip(items, lengths, strict=True)]
        return scores + torch.from_numpy(self.transitions.lifts(recent).toarray()).to(scores.device)


class TrainedRecommender(Recommender):
    """A recommender that `hymirec.training.train` trains.

    Its `forward(**batch)` returns a mapping with `loss` and `weight`, see there.
    """

    @abstractmethod
    def examples(self, histories: Sequence[IndexedHistory]) -> Examples[Any]:
        """What it learns from, drawn out of the histories."""


@dataclass(frozen=True)
class TrainingData:
    """What a model may know before it is trained.

    Attributes:
        items: the canonical items table; row i is item index i + 1.
        histories: all users' histories, without the events of validation and test.
        directory: for what is computed on the way and can be found again.
    """

    items: pd.DataFrame
    histories: Sequence[IndexedHistory]
    directory: Path

    @cached_property
    def occurrences(self) -> Tensor:
        """How often each item occurs: int64 [N + 1]."""
        return count_items(self.histories, len(self.items))


class Baseline(Recommender):
    """A model that is made from data and settings alone: what HyMiRec is compared with.

    One that learns by steps is a `TrainedRecommender` too; any other is ready when it is made.

    Attributes:
        config_type: its settings, all of which have defaults.
    """

    config_type: ClassVar[type[BaseModel]]

    @classmethod
    @abstractmethod
    def build(cls, data: TrainingData, settings: Any) -> Self:
        """Make a model; `settings` are of `config_type`."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write settings and weights, nothing pickled."""

    @classmethod
    @abstractmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""


class PlainBaseline(Baseline):
    """One that is its settings and its weights, and nothing else."""

    settings: BaseModel

    @classmethod
    @abstractmethod
    def shaped(cls, settings: Any, weights: Mapping[str, Tensor]) -> Self:
        """Make a model that can take the weights over."""

    def save(self, directory: Path) -> None:
        """Write settings and weights."""
        directory.mkdir(parents=True)
        (directory / "settings.json").write_text(self.settings.model_dump_json(indent=2))
        save_file(self.state_dict(), directory / "weights.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""
        settings = cls.config_type.model_validate_json((directory / "settings.json").read_text())
        weights = load_file(directory / "weights.safetensors")
        model = cls.shaped(settings, weights)
        model.load_state_dict(weights)
        return model.eval()
