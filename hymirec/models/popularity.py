"""The most popular items for everyone: the floor that a recommender has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor

from hymirec.models.base import Baseline, TrainingData


class PopularityConfig(BaseModel):
    """There is nothing to set."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PopularityRecommender(Baseline):
    """Scores an item by how often it occurs in training."""

    counts: Tensor
    config_type = PopularityConfig

    def __init__(self, counts: Tensor) -> None:
        """Make it from int64 [N + 1], the training events of each item."""
        super().__init__()
        self.register_buffer("counts", counts)

    @classmethod
    def build(cls, data: TrainingData, settings: PopularityConfig) -> Self:
        """Count."""
        return cls(data.occurrences)

    @property
    def max_history(self) -> int:
        """It reads no history."""
        return 1

    @property
    def num_recent(self) -> int:
        """It reads no history."""
        return 1

    def score(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The same counts for every user, [B, N + 1]."""
        return self.counts.to(torch.float32).expand(len(inputs["recent_length"]), -1)

    def save(self, directory: Path) -> None:
        """Write the counts."""
        directory.mkdir(parents=True)
        save_file(self.state_dict(), directory / "weights.safetensors")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""
        return cls(load_file(directory / "weights.safetensors")["counts"]).eval()
