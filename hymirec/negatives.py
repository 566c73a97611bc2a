"""Sampled negatives, shared by a batch, and what their sampling does to a loss.

N items, K negatives of a batch.

A sum over a sample stands for a sum over the catalogue. Where an item is in the sample with
probability p, its share is divided by p (Horvitz and Thompson, 1952), so that whatever sampling
favours is not pushed away for being drawn more often: the sampled-softmax correction, for draws
without repeats.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Sampling = Literal["uniform", "popularity", "in_batch"]
"""`uniform` over the catalogue; `popularity`, by how often an item occurs in training;
`in_batch`, the targets of the batch itself, which costs no further item vectors; of several
processes each then has negatives of its own."""


class Negatives(NamedTuple):
    """Distinct negatives.

    Attributes:
        items: int64 [K], item indices from 1.
        correction: [K], added to the logits; zero where all items are equally likely.
    """

    items: Tensor
    correction: Tensor


class NegativeSampler(nn.Module):
    """Draws negatives from torch's global generator."""

    share: Tensor

    def __init__(self, sampling: Sampling, num_negatives: int, occurrences: Tensor) -> None:
        """Make a sampler.

        Args:
            sampling: see `Sampling`.
            num_negatives: draws, at most; repeats are dropped.
            occurrences: int64 [N + 1], how often an item occurs in training; row 0 is padding.
        """
        super().__init__()
        self.sampling = sampling
        self.num_negatives = num_negatives
        self.num_items = len(occurrences) - 1
        share = occurrences.double() / occurrences.sum().clamp(min=1)
        self.register_buffer("share", share.float(), persistent=False)

    def forward(self, targets: Tensor) -> Negatives:
        """Draw negatives for a batch with these targets, int64 of any shape, 0 where padded."""
        if self.sampling == "uniform":
            items = sample_items(self.num_items, self.num_negatives, targets.device)
            return Negatives(items, torch.zeros(len(items), device=targets.device))
        if self.sampling == "popularity":
            drawn = torch.multinomial(self.share, self.num_negatives, replacement=True)
        else:
            drawn = targets[targets != 0]
            keep = torch.randperm(len(drawn), device=drawn.device)[: self.num_negatives]
            drawn = drawn[keep]
        items = drawn.unique()
        # In the sample with p = 1 - (1 - q)^draws; the mean keeps the scale of uniform draws.
        missed = torch.log1p(-self.share.double().clamp(max=1 - 1e-9)) * len(drawn)
        chance = -torch.expm1(missed)
        usual = chance[1:].sum() / self.num_items
        correction = (usual.log() - chance[items].clamp(min=1e-12).log()).float()
        return Negatives(items, correction)


def sample_items(num_items: int, num_negatives: int, device: torch.device) -> Tensor:
    """Draw distinct item indices from 1..N, uniformly: int64 [min(num_negatives, N)].

    From a catalogue much larger than the sample, the draw is with replacement and duplicates are
    dropped, which costs nothing and loses next to none.
    """
    if num_negatives * 16 < num_items:
        return torch.randint(1, num_items + 1, (num_negatives,), device=device).unique()
    return torch.randperm(num_items, device=device)[:num_negatives] + 1


def false_negatives(targets: Tensor, negatives: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
    """Find the negatives that are a target of the same row.

    Args:
        targets: int64 [B, W], 0 where there is none.
        negatives: int64 [K], distinct.
        num_items: N.

    Returns:
        Rows and places among the negatives, int64 [number of pairs] each; a target that stands
        twice in a row gives its pair twice.
    """
    place = torch.full((num_items + 1,), -1, device=targets.device)
    place[negatives] = torch.arange(len(negatives), device=targets.device)
    found = place[targets]
    row, column = (found >= 0).nonzero(as_tuple=True)
    return row, found[row, column]
