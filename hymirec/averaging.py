"""Averages of a model's weights over the steps of a training.

The weights after a step are as good as the last batches let them be; their exponential moving
average is what a far lower learning rate would have come to (Polyak and Juditsky, 1992). It is the
average that is validated and kept; training goes on from the weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

AVERAGES = "averages.safetensors"


class Averages:
    """Exponential moving averages of the weights that training changes."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin at the weights as they are; `decay` is the share that a step keeps, at most."""
        self.decay = decay
        self.weights = {
            name: weight for name, weight in model.named_parameters() if weight.requires_grad
        }
        self.averages = {name: weight.detach().clone() for name, weight in self.weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step`, counted from 1.

        Early on, less is kept, so that where training began is soon forgotten.
        """
        kept = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averages.values()), list(self.weights.values()), 1 - kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the averages for a while."""
        own = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._put(self.averages)
        try:
            yield
        finally:
            self._put(own)

    def save(self, directory: Path) -> None:
        """Write the averages beside a checkpoint's other files."""
        tensors = {name: average.contiguous() for name, average in self.averages.items()}
        save_file(tensors, directory / AVERAGES)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote."""
        for name, average in load_file(directory / AVERAGES).items():
            self.averages[name].copy_(average)

    @torch.no_grad()
    def _put(self, tensors: dict[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(tensors[name])
