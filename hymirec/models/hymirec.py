"""HyMiRec: coarse interests from the whole history, refined into several by a language model.

B users, C cut points, L history length, N recent items, Q coarse queries, S interests, W window,
D width, K negatives.

Training asks about many cut points of one history in a single pass. Every cut point brings coarse
queries and refined queries of its own; masks let them see what lay before their cut and nothing
else, so the answer at a cut is the one that a pass over the shortened history would give, and a
request is simply a pass with one cut, at the end.

    coarse    queries of a cut  ──attend──►  codes of all events before the cut
    refined   [recent items] ++ per cut [coarse interests + indicator] ++ [refined queries]
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from hymirec.codebook import Codebook, codebook_from_tensors
from hymirec.dmil import assign_targets, contrast, dmil_loss, merged_loss
from hymirec.examples import CutPointExamples
from hymirec.inputs import IndexedHistory
from hymirec.models.base import InterestRecommender, TrainedRecommender
from hymirec.models.layers import (
    BackboneConfig,
    FeedForward,
    build_backbone,
    lookup,
    token_scale,
)
from hymirec.models.pretrained import save_architecture, take_over, without_adapters
from hymirec.negatives import NegativeSampler, Sampling, false_negatives
from hymirec.transitions import Transitions

TRANSITIONS = "transitions.safetensors"

Matching = Literal["hungarian", "max"]
"""`hungarian`: a window's groups to interests, one to one. `max`: every target to the interest
nearest to it, as ComiRec does (Cen et al., KDD 2020)."""


class HyMiRecConfig(BaseModel):
    """Settings of the recommender; the paper's best on public data are S = 2, W = 4."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_interests: PositiveInt = 2
    """S: refined interests, and the groups that a window's items are put in."""
    num_coarse: NonNegativeInt = 4
    """Coarse queries; 0 leaves the whole history out."""
    indicator: bool = True
    """Mark coarse interests, so that the backbone can tell them from items."""
    window: PositiveInt = 4
    """W: next items that are targets together."""
    num_cuts: PositiveInt = 16
    """Moments of one history that are learned from in one pass."""
    max_history: PositiveInt = 1000
    """Most recent events that the coarse interests read by their codes."""
    num_recent: PositiveInt = 100
    """n: most recent items that the backbone reads one by one."""
    coarse_layers: NonNegativeInt = 2
    """Of the light Transformer over the whole history."""
    backbone: BackboneConfig = BackboneConfig()
    """What refines the interests."""
    num_negatives: PositiveInt = 1024
    """Items a step that are no targets, at most."""
    sampling: Sampling = "uniform"
    """Where negatives come from, see `hymirec.negatives`."""
    temperature: PositiveFloat = 0.07
    """τ of InfoNCE."""
    matching: Matching = "hungarian"
    """Groups to interests one to one, or every target to the interest nearest to it."""
    merged_weight: NonNegativeFloat = 1.0
    """Of `hymirec.dmil.merged_loss` beside the paper's loss; 0 is the paper."""


class HyMiRec(InterestRecommender, TrainedRecommender):
    """The hybrid recommender over frozen item embeddings and their codebook."""

    items: Tensor

    def __init__(
        self,
        items: Tensor,
        codebook: Codebook,
        config: HyMiRecConfig,
        occurrences: Tensor | None = None,
        *,
        saved: Path | None = None,
    ) -> None:
        """Make an untrained model.

        Args:
            items: unit item embeddings [number of items + 1, D]; row 0, padding, is zero.
            codebook: rebuilds the history from codes.
            config: settings.
            occurrences: int64 [number of items + 1], how often an item occurs in training; only
                negatives that are not uniform ask for it.
            saved: as in `hymirec.models.layers.build_backbone`.
        """
        super().__init__()
        if occurrences is None:
            occurrences = torch.ones(len(items), dtype=torch.int64)
        width = items.shape[1]
        self.settings = config
        self.register_buffer("items", items)
        self.codebook = codebook
        self.sampler = NegativeSampler(config.sampling, config.num_negatives, occurrences)
        self.coarse = CoarseInterests(width, config) if config.num_coarse else None
        self.backbone = build_backbone(
            width, config.backbone, max_tokens=config.num_recent + 1, saved=saved
        )
        self.input_dropout = nn.Dropout(config.backbone.dropout)
        self.indicator = nn.Parameter(torch.randn(width)) if config.indicator else None
        # Interests that start alike stay alike for epochs: orthogonal queries as large as the
        # item they are added to begin apart.
        self.refined_queries = nn.Parameter(_apart(config.num_interests, width))

    def save(self, directory: Path) -> None:
        """Write settings, weights, with items and codebook among them, and transitions if any."""
        directory.mkdir(parents=True)
        (directory / "settings.json").write_text(self.settings.model_dump_json(indent=2))
        save_file(without_adapters(self).state_dict(), directory / "weights.safetensors")
        save_architecture(self.backbone, directory / "backbone")
        if self.transitions is not None:
            self.transitions.save(directory / TRANSITIONS)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""
        settings = HyMiRecConfig.model_validate_json((directory / "settings.json").read_text())
        weights = load_file(directory / "weights.safetensors")
        codebook = codebook_from_tensors(weights, "codebook.")
        model = cls(weights["items"], codebook, settings, saved=directory / "backbone")
        model.load_state_dict(weights)
        if (directory / TRANSITIONS).exists():  # without weight, and before there were any, not
            model.transitions = Transitions.load(directory / TRANSITIONS)
        return model.eval()

    def with_catalogue(self, items: Tensor, codebook: Codebook) -> Self:
        """The same weights over other items [N + 1, D] or another codebook of them.

        Nothing is copied but references, and this model stays as it is: whoever is reading it may
        go on. Training draws negatives from the items there were before.
        """
        other = copy.copy(self)
        other._buffers = self._buffers | {"items": items}
        other._modules = self._modules | {"codebook": codebook}
        if self.transitions is not None:
            other.transitions = self.transitions.for_items(len(items) - 1)
        return other

    def start_from(self, backbone: nn.Module) -> None:
        """Take over the weights of a first-stage backbone of the same shape."""
        take_over(self.backbone, backbone)

    @property
    def max_history(self) -> int:
        """Events of the coarse path."""
        return self.settings.max_history

    @property
    def num_recent(self) -> int:
        """Items of the refined path."""
        return self.settings.num_recent

    def item_vectors(self) -> Tensor:
        """[number of items + 1, D]."""
        return self.items

    def examples(self, histories: Sequence[IndexedHistory]) -> CutPointExamples:
        """Histories cut at several points, with the window that follows each."""
        return CutPointExamples(
            histories,
            num_recent=self.settings.num_recent,
            max_history=self.settings.max_history,
            num_cuts=self.settings.num_cuts,
            window=self.settings.window,
        )

    @torch.no_grad()
    def encode_user(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Model inputs to interests [B, S, D] at unit length; zero for an empty history."""
        history_length, recent_length = inputs["history_length"], inputs["recent_length"]
        interests = self.interests_at(
            inputs["history_codes"],
            inputs["recent_items"],
            history_cuts=history_length[:, None],
            recent_cuts=recent_length[:, None],
        )[:, 0]
        return interests * (recent_length > 0)[:, None, None]

    def forward(
        self,
        history_codes: Tensor,
        recent_items: Tensor,
        history_cuts: Tensor,
        recent_cuts: Tensor,
        targets: Tensor,
    ) -> dict[str, Tensor]:
        """The multi-interest loss over all cut points of a batch.

        Args:
            history_codes: uint8 [B, L, bytes per item].
            recent_items: int64 [B, N].
            history_cuts: int64 [B, C], events of the history that lie before each cut.
            recent_cuts: int64 [B, C], recent items that lie before each cut, at least 1.
            targets: int64 [B, C, W], the next items after each cut, 0 where there are no more.

        Returns:
            `loss`; `weight`, the number of cut points with a target, which the loss is a mean
            over; `overlap`, the mean cosine between two interests of a user; `top_share`, the
            share of targets that the busiest interest was given.
        """
        window = targets.flatten(0, 1)  # [B·C, W]
        present = window != 0
        # Drawn first: processes that share a batch draw alike only before dropout, whose size is
        # that of their share.
        negatives = self.sampler(window)
        interests = self.interests_at(
            history_codes, recent_items, history_cuts=history_cuts, recent_cuts=recent_cuts
        ).flatten(0, 1)  # [B·C, S, D]
        contrasted = contrast(
            interests,
            self.items[window],
            self.items[negatives.items],
            negatives.correction,
            false_negatives(window, negatives.items, len(self.items) - 1),
            temperature=self.settings.temperature,
            merged=self.settings.merged_weight > 0,
        )
        if self.settings.matching == "hungarian":
            owner = assign_targets(interests, self.items[window], present)
        else:
            owner = contrasted.toward.argmax(dim=2)
        loss = dmil_loss(contrasted, owner, present)
        if self.settings.merged_weight:
            loss = loss + self.settings.merged_weight * merged_loss(contrasted, owner, present)
        with torch.no_grad():
            won = torch.bincount(owner[present], minlength=self.settings.num_interests)
        return {
            "loss": loss,
            "weight": present.any(dim=1).sum(),
            "overlap": interest_overlap(interests.detach()),
            "top_share": won.max() / won.sum().clamp(min=1),
        }

    def interests_at(
        self, history_codes: Tensor, recent_items: Tensor, *, history_cuts: Tensor,
        recent_cuts: Tensor,
    ) -> Tensor:  # fmt: skip
        """Interests as of each cut point, [B, C, S, D] at unit length; arguments as `forward`."""
        num_users, num_cuts = recent_cuts.shape
        recent = self.input_dropout(token_scale(self.items[recent_items]))  # [B, N, D]
        rows = torch.arange(num_users, device=recent.device)[:, None]
        last = recent[rows, (recent_cuts - 1).clamp(min=0)]  # [B, C, D]
        queries = last[:, :, None] + self.refined_queries  # [B, C, S, D]

        per_cut = queries
        if self.coarse is not None:
            coarse = self.coarse(token_scale(self.codebook.decode(history_codes)), history_cuts)
            if self.indicator is not None:
                coarse = coarse + self.indicator
            per_cut = torch.cat([coarse, queries], dim=2)  # [B, C, Q + S, D]
        tokens = torch.cat([recent, per_cut.flatten(1, 2)], dim=1)
        mask, positions = self._layout(recent.shape[1], recent_cuts)
        hidden = self.backbone(
            inputs_embeds=tokens, attention_mask=mask, position_ids=positions
        ).last_hidden_state
        hidden = hidden[:, recent.shape[1] :].unflatten(1, (num_cuts, -1))
        return normalize(hidden[:, :, self.settings.num_coarse :], dim=-1)

    def _layout(self, num_recent: int, recent_cuts: Tensor) -> tuple[Tensor, Tensor]:
        """Who sees whom in the refined pass, and where everyone stands.

        An item sees the items up to itself. The tokens of a cut see the items before the cut and
        one another, and stand where the next item would. With num_tokens = N + C·(Q + S):

        Returns:
            bool [B, 1, num_tokens, num_tokens], True where the row may attend to the column;
            int64 [B, num_tokens] positions.
        """
        num_users, num_cuts = recent_cuts.shape
        device = recent_cuts.device
        per_cut = self.settings.num_coarse + self.settings.num_interests
        cut_tokens = num_cuts * per_cut
        place = torch.arange(num_recent, device=device)
        before_cut = recent_cuts.repeat_interleave(per_cut, dim=1)  # [B, C·(Q + S)]

        mask = torch.zeros(
            num_users, num_recent + cut_tokens, num_recent + cut_tokens,
            dtype=torch.bool, device=device,
        )  # fmt: skip
        mask[:, :num_recent, :num_recent] = place <= place[:, None]
        mask[:, num_recent:, :num_recent] = place < before_cut[..., None]
        cut = torch.arange(cut_tokens, device=device) // per_cut
        mask[:, num_recent:, num_recent:] = cut == cut[:, None]
        positions = torch.cat([place.expand(num_users, -1), before_cut], dim=1)
        return mask[:, None], positions


class CoarseInterests(nn.Module):
    """The light recommender: learnable queries summarise the whole history.

    Only the queries attend, so time grows with history length L and not with its square; a layer
    is otherwise a Transformer's.
    """

    def __init__(self, width: int, config: HyMiRecConfig) -> None:
        super().__init__()
        self.queries = nn.Parameter(_apart(config.num_coarse, width))
        self.layers = nn.ModuleList(
            CoarseLayer(width, config.backbone) for _ in range(config.coarse_layers)
        )
        self.norm = nn.RMSNorm(width)

    def forward(self, history: Tensor, cuts: Tensor) -> Tensor:
        """History [B, L, D] and cut points [B, C] to coarse interests [B, C, Q, D].

        A query attends to the events before its cut and learns how long ago each was; with no
        event before the cut it keeps what it starts with.
        """
        place = torch.arange(history.shape[1], device=history.device)
        ago = cuts[..., None] - 1 - place  # [B, C, L], events since; negative: after the cut
        queries = self.queries.expand(*cuts.shape, -1, -1)
        for layer in self.layers:
            queries = layer(queries, history, ago)
        return self.norm(queries)


class CoarseLayer(nn.Module):
    """Queries attend to events and, through a feed-forward layer, think about what they saw."""

    NUM_AGES = 12
    """Ages are told apart in powers of two: 0, 1, 2–3, 4–7, … and all from 1024 events on."""

    def __init__(self, width: int, config: BackboneConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query_norm = nn.RMSNorm(width)
        self.event_norm = nn.RMSNorm(width)
        self.to_query = nn.Linear(width, width, bias=False)
        self.to_key_value = nn.Linear(width, 2 * width, bias=False)
        self.to_output = nn.Linear(width, width, bias=False)
        self.age_bias = nn.Parameter(torch.zeros(config.num_heads, self.NUM_AGES))
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward = FeedForward(width, config)

    def forward(self, queries: Tensor, events: Tensor, ago: Tensor) -> Tensor:
        """Queries [B, C, Q, D], events [B, L, D] and their ages [B, C, L] to queries."""
        num_cuts, num_queries = queries.shape[1:3]
        heads = (self.num_heads, -1)
        query = self.to_query(self.query_norm(queries)).flatten(1, 2)
        key, value = self.to_key_value(self.event_norm(events)).chunk(2, dim=2)
        query, key, value = (
            part.unflatten(2, heads).transpose(1, 2) for part in (query, key, value)
        )

        visible = ago >= 0
        something = visible.any(dim=2, keepdim=True)
        bias = lookup(self.age_bias.T, self.age(ago)).permute(0, 3, 1, 2)  # [B, heads, C, L]
        # Attention over nothing is not a number: such a cut looks anywhere and then forgets it.
        bias = bias.masked_fill((something & ~visible)[:, None], -torch.inf)
        bias = bias.repeat_interleave(num_queries, dim=2)  # [B, heads, C·Q, L]
        seen = scaled_dot_product_attention(query, key, value, attn_mask=bias)
        seen = self.to_output(seen.transpose(1, 2).flatten(2)).unflatten(1, (num_cuts, num_queries))
        seen = seen * something[..., None]
        return self.feed_forward(queries + self.dropout(seen))

    @classmethod
    def age(cls, ago: Tensor) -> Tensor:
        """Which of the ages so many events since are, int64 of the same shape."""
        return (ago.clamp(min=0) + 1).float().log2().long().clamp(max=cls.NUM_AGES - 1)


def interest_overlap(interests: Tensor) -> Tensor:
    """Mean cosine between two different interests of a user, [B, S, D] to a scalar; 0 for S = 1."""
    num_interests = interests.shape[1]
    if num_interests == 1:
        return interests.new_zeros(())
    cosine = interests @ interests.transpose(1, 2)
    off_diagonal = cosine.sum(dim=(1, 2)) - cosine.diagonal(dim1=1, dim2=2).sum(dim=1)
    return (off_diagonal / (num_interests * (num_interests - 1))).mean()


def _apart(count: int, width: int) -> Tensor:
    """Orthogonal vectors [count, D] with one standard deviation a coordinate."""
    vectors = torch.empty(count, width)
    nn.init.orthogonal_(vectors)
    return token_scale(vectors)
