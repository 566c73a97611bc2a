"""ComiRec: controllable multi-interest recommendation (Cen et al., KDD 2020).

Several interests out of one sequence of item vectors, by self-attention (ComiRec-SA) or by dynamic
routing between capsules (ComiRec-DR). The next item teaches the interest nearest to it, and no
other. The loss is InfoNCE over shared negatives, the sampled softmax of the paper with cosines.

Training asks about several cut points of a history in one pass, as HyMiRec does.

B users, C cut points, T items, S interests, D width, A attention width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import normalize

from hymirec.dmil import contrast, dmil_loss
from hymirec.examples import CutPointExamples
from hymirec.inputs import IndexedHistory
from hymirec.models.layers import lookup, token_scale
from hymirec.models.sequence import ById, IdConfig
from hymirec.negatives import false_negatives
from hymirec.schema import PADDING_INDEX


class ComiRecConfig(IdConfig):
    """Settings of the model."""

    num_interests: PositiveInt = 4
    extraction: Literal["attention", "routing"] = "attention"
    attention_width: PositiveInt = 256
    """A, of ComiRec-SA."""
    num_iterations: PositiveInt = 3
    """Of routing, in ComiRec-DR."""
    num_cuts: PositiveInt = 16


class Contrasted(NamedTuple):
    """What a training step has found.

    Attributes:
        loss: a scalar.
        interests: [B·C, S, D], unit length.
        owner: int64 [B·C, 1], the interest each target teaches.
        present: bool [B·C, 1], False where there is no target.
    """

    loss: Tensor
    interests: Tensor
    owner: Tensor
    present: Tensor


class ComiRec(ById):
    """Interests as weighted sums of item vectors."""

    config_type = ComiRecConfig
    settings: ComiRecConfig

    def __init__(self, occurrences: Tensor, config: ComiRecConfig) -> None:
        """Make an untrained model; `occurrences` [N + 1] counts items in training."""
        super().__init__(occurrences, config)
        width = config.width
        self.extract: SelfAttention | DynamicRouting
        if config.extraction == "attention":
            self.extract = SelfAttention(
                width, config.attention_width, config.num_interests, config.num_recent
            )
        else:
            self.extract = DynamicRouting(width, config.num_interests, config.num_iterations)
        self.to_interests = nn.Linear(width, width)

    def examples(self, histories: Sequence[IndexedHistory]) -> CutPointExamples:
        """Histories cut at several points; the next item alone is a target."""
        return CutPointExamples(
            histories,
            num_recent=self.settings.num_recent,
            max_history=1,
            num_cuts=self.settings.num_cuts,
            window=1,
        )

    def forward(
        self, recent_items: Tensor, recent_cuts: Tensor, targets: Tensor, **unread: Tensor
    ) -> dict[str, Tensor]:
        """Loss over all cut points of a batch.

        Args:
            recent_items: int64 [B, T].
            recent_cuts: int64 [B, C], items that lie before each cut, at least 1.
            targets: int64 [B, C, 1], the next item, 0 where there is none.
            unread: what other models read of the same examples.

        Returns:
            `loss`; `weight`, the number of targets it is a mean over.
        """
        found = self.contrasted(recent_items, recent_cuts, targets)
        return {"loss": found.loss, "weight": found.present.sum()}

    def contrasted(self, recent_items: Tensor, recent_cuts: Tensor, targets: Tensor) -> Contrasted:
        """Interests at all cut points and what they are told; arguments as `forward`."""
        window = targets.flatten(0, 1)  # [B·C, 1]
        present = window != PADDING_INDEX
        negatives = self.sampler(window)
        (sequence, wanted, against), _ = self.vectors_of(recent_items, window, negatives.items)
        interests = self.interests_at(sequence, recent_cuts).flatten(0, 1)
        compared = contrast(
            interests,
            wanted,
            against,
            negatives.correction,
            false_negatives(window, negatives.items, len(self.tower.occurrences) - 1),
            temperature=self.settings.temperature,
            merged=False,
        )
        owner = compared.toward.argmax(dim=2)
        return Contrasted(dmil_loss(compared, owner, present), interests, owner, present)

    @torch.no_grad()
    def encode_user(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Recent items to interests [B, S, D]; zero for an empty history."""
        length = inputs["recent_length"]
        interests = self.interests_at(
            self.item_vectors()[inputs["recent_items"]], length[:, None].clamp(min=1)
        )[:, 0]
        return interests * (length > 0)[:, None, None]

    def interests_at(self, sequence: Tensor, cuts: Tensor) -> Tensor:
        """Item vectors [B, T, D] and cuts [B, C], at least 1, to interests [B, C, S, D]."""
        tokens = self.input_dropout(token_scale(sequence))
        place = torch.arange(tokens.shape[1], device=tokens.device)
        ago = cuts[..., None] - 1 - place  # [B, C, T], events since; negative: after the cut
        return normalize(self.to_interests(self.extract(tokens, ago)), dim=-1)


class SelfAttention(nn.Module):
    """A distribution over the items for each interest: A = softmax(W2 tanh(W1 H)).

    Positions are added to the items, as the paper does; they count back from the cut, so that an
    answer does not depend on what was cut off before.
    """

    def __init__(self, width: int, hidden: int, num_interests: int, num_positions: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(num_positions, hidden))
        self.to_hidden = nn.Linear(width, hidden, bias=False)
        self.to_weights = nn.Linear(hidden, num_interests, bias=False)

    def forward(self, tokens: Tensor, ago: Tensor) -> Tensor:
        """Tokens [B, T, D] and their ages [B, C, T] to [B, C, S, D]."""
        age = ago.clamp(0, len(self.positions) - 1)
        positions = lookup(self.positions, age)  # [B, C, T, A]
        hidden = torch.tanh(self.to_hidden(tokens)[:, None] + positions)
        logits = self.to_weights(hidden).masked_fill((ago < 0)[..., None], -torch.inf)
        return logits.softmax(dim=2).transpose(2, 3) @ tokens[:, None]


class DynamicRouting(nn.Module):
    """Capsules: items vote for interests, and the more an interest agrees, the more it hears.

    Votes differ by interest, so the logits may start from zero.
    """

    def __init__(self, width: int, num_interests: int, num_iterations: int) -> None:
        super().__init__()
        self.num_iterations = num_iterations
        self.to_votes = nn.Linear(width, num_interests * width, bias=False)
        self.num_interests = num_interests

    def forward(self, tokens: Tensor, ago: Tensor) -> Tensor:
        """Tokens [B, T, D] and their ages [B, C, T] to [B, C, S, D]."""
        votes = self.to_votes(tokens).unflatten(2, (self.num_interests, -1))  # [B, T, S, D]
        hidden = (ago < 0)[:, :, None]  # [B, C, 1, T]
        fixed = votes.detach()  # as in the paper, gradients flow through the last pass alone
        logits = fixed.new_zeros(*ago.shape[:2], self.num_interests, ago.shape[2])
        for _ in range(self.num_iterations - 1):
            interests = squash(_gather(logits, hidden, fixed))
            logits = logits + torch.einsum("btsd,bcsd->bcst", fixed, interests)
        return squash(_gather(logits, hidden, votes))


def _gather(logits: Tensor, hidden: Tensor, votes: Tensor) -> Tensor:
    weights = logits.softmax(dim=2).masked_fill(hidden, 0)  # over interests
    return torch.einsum("bcst,btsd->bcsd", weights, votes)


def squash(capsules: Tensor) -> Tensor:
    """Keep directions and bring lengths into 0..1: |x|² / (1 + |x|²) · x / |x|."""
    square = capsules.square().sum(dim=-1, keepdim=True)
    return capsules * square.sqrt() / (1 + square)
