"""Bi-level multi-interest learning (Qiao et al., arXiv 2411.09410).

An implicit behavioural module learns several interests from item ids; here ComiRec. An explicit
semantic module looks at some informative users: it clusters what each of them took by its text and
has a language model say what each cluster is about. The behavioural module is drawn to what was
said (modality alignment) and has to tell the text of the next item (semantic prediction). Requests
are answered by the behavioural module alone.

B users, C cut points, S interests, D width, E text width, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveInt
from scipy.sparse.linalg import svds
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from hymirec.codebook.kmeans import balanced_cosine_kmeans
from hymirec.dmil import cluster_targets, match_interests
from hymirec.examples import CutPointExamples, CutPoints
from hymirec.inputs import IndexedHistory
from hymirec.models.base import TrainingData
from hymirec.models.comirec import ComiRec, ComiRecConfig
from hymirec.models.semantics import InterestWriter, PromptedModel, TopicWords
from hymirec.schema import PADDING_INDEX
from hymirec.texts import plain_texts
from hymirec.words import WordVectors

MAX_INFORMATIVE = 2000
"""Users asked about, at most: a language model answers for each of their interests."""


class BiLevelConfig(ComiRecConfig):
    """Settings of the model."""

    writer: str = ""
    """The language model: a local directory or a name in the local cache. Empty: the heaviest
    words of a cluster stand in for what a model would say of it."""
    informative_share: float = Field(0.3, gt=0, le=1)
    """Of users, those whose interests are put into words: the ones nearest to the centres of as
    many groups of users, by what they took."""
    text_width: PositiveInt = 64
    """E, of what words become; at most the number of items and of words allow."""
    alignment_weight: NonNegativeFloat = 0.1
    prediction_weight: NonNegativeFloat = 0.1


class BiLevel(ComiRec):
    """ComiRec with a teacher of words while it trains."""

    config_type = BiLevelConfig
    settings: BiLevelConfig

    def __init__(self, occurrences: Tensor, config: BiLevelConfig) -> None:
        """Make an untrained model that has no teacher yet: see `build`."""
        super().__init__(occurrences, config)
        self.to_semantics = nn.Linear(config.width, config.text_width)
        self.teacher: SemanticTeacher | None = None

    # It learns from what was said of interests besides, so it is built of, fed and asked for other
    # arguments than ComiRec, whose network it is.
    @classmethod
    def build(cls, data: TrainingData, settings: BiLevelConfig) -> Self:  # type: ignore[override]
        """Make an untrained model and its teacher."""
        model = cls(data.occurrences, settings)
        texts = plain_texts(data.items)
        words = WordVectors(texts)
        writer: InterestWriter = (
            PromptedModel(settings.writer) if settings.writer else TopicWords(words)
        )
        model.teacher = SemanticTeacher.make(texts, words, writer, settings.text_width)
        return model

    def examples(self, histories: Sequence[IndexedHistory]) -> SemanticExamples:
        """As ComiRec's, with what was said of the user's interests."""
        assert self.teacher is not None, "a loaded model answers; training begins with `build`"
        return SemanticExamples(
            histories,
            self.teacher,
            num_interests=self.settings.num_interests,
            informative_share=self.settings.informative_share,
            num_recent=self.settings.num_recent,
            num_cuts=self.settings.num_cuts,
        )

    def forward(  # type: ignore[override]
        self, said: Tensor, target_texts: Tensor, recent_items: Tensor, recent_cuts: Tensor,
        targets: Tensor, **unread: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """ComiRec's loss with alignment and prediction beside it.

        Args:
            said: [B, S, E], what was said of each user's interests at unit length, zero where
                nothing was.
            target_texts: [B, C, 1, E], of the targets, zero where there is none.
            recent_items: as ComiRec.
            recent_cuts: as ComiRec.
            targets: as ComiRec.
            unread: as ComiRec.
        """
        found = self.contrasted(recent_items, recent_cuts, targets)
        num_cuts = targets.shape[1]
        meant = normalize(self.to_semantics(found.interests), dim=-1)  # [B·C, S, E]
        owner = found.owner[..., None].expand(-1, -1, meant.shape[2])  # [B·C, 1, E]
        predicted = cosine_similarity(meant.gather(1, owner), target_texts.flatten(0, 1), dim=-1)
        prediction = ((1 - predicted) * found.present).sum() / found.present.sum().clamp(min=1)

        taught = (said.norm(dim=2) > 0).any(dim=1).repeat_interleave(num_cuts)
        taught &= found.present.any(dim=1)
        spoken = said.repeat_interleave(num_cuts, dim=0)  # [B·C, S, E]
        likeness = spoken @ meant.transpose(1, 2)  # [B·C, said, interests]
        with torch.no_grad():
            match = match_interests(likeness)
        paired = likeness.gather(2, match[..., None])[..., 0]  # [B·C, S]
        distance = (1 - paired) * (spoken.norm(dim=2) > 0) * taught[:, None]
        alignment = distance.sum() / taught.sum().clamp(min=1) / spoken.shape[1]
        loss = (
            found.loss
            + self.settings.alignment_weight * alignment
            + self.settings.prediction_weight * prediction
        )
        return {"loss": loss, "weight": found.present.sum()}


@dataclass(frozen=True)
class SemanticTeacher:
    """Texts as vectors, and a writer.

    Attributes:
        texts: of the N items.
        words: weighted by them.
        axes: [V, E], words to vectors.
        items: [N + 1, E] at unit length; row 0, padding, and items without words are zero.
        writer: puts an interest into words.
    """

    texts: list[str]
    words: WordVectors
    axes: NDArray[np.float64]
    items: Tensor
    writer: InterestWriter

    @classmethod
    def make(
        cls, texts: list[str], words: WordVectors, writer: InterestWriter, width: int
    ) -> SemanticTeacher:
        """Find the directions in which texts differ most (latent semantic analysis)."""
        room = min(words.table.shape) - 1
        axes = np.zeros((len(words.words), width))
        if room > 0:
            start = np.ones(min(words.table.shape))
            _, _, directions = svds(words.table, k=min(width, room), v0=start)
            axes[:, : len(directions)] = directions.T
        items = torch.from_numpy(words.table @ axes).float()
        padded = torch.cat([items.new_zeros(1, width), normalize(items, dim=1)])
        return cls(texts, words, axes, padded, writer)

    def vector(self, text: str) -> Tensor:
        """A text as a vector [E] at unit length; zero where none of its words is known."""
        return normalize(torch.from_numpy(self.words.vectors([text]) @ self.axes)[0].float(), dim=0)

    def interests(self, history: IndexedHistory, num_interests: int) -> Tensor:
        """What is said of the groups of a user's items, [S, E]; zero beyond the groups there are.

        Items are grouped by the direction of their texts, as targets are in HyMiRec; there are no
        more groups than distinct items.
        """
        distinct = np.unique(history.items)
        vectors = self.items[distinct]
        groups, _ = cluster_targets(
            (vectors @ vectors.T)[None],
            torch.ones(1, len(distinct), dtype=torch.bool),
            num_interests,
        )
        said = vectors.new_zeros(num_interests, vectors.shape[1])
        for group in range(num_interests):
            members = distinct[(groups[0] == group).numpy()]
            if len(members):
                texts = [self.texts[item - 1] for item in members]
                said[group] = self.vector(self.writer.describe(texts))
        return said

    def informative(self, histories: Sequence[IndexedHistory], share: float) -> list[int]:
        """Users to ask about: one near each centre of as many groups of users."""
        users = torch.stack([self.items[history.items].mean(dim=0) for history in histories])
        number = min(MAX_INFORMATIVE, max(1, round(share * len(histories))))
        generator = torch.Generator().manual_seed(0)
        centres = balanced_cosine_kmeans(users, number, num_iterations=10, generator=generator)
        return sorted(set((normalize(users, dim=1) @ centres.T).argmax(dim=0).tolist()))


class SemanticExamples(CutPointExamples):
    """Cut points with what was said of the user's interests."""

    def __init__(
        self, histories: Sequence[IndexedHistory], teacher: SemanticTeacher, *,
        num_interests: int, informative_share: float, num_recent: int, num_cuts: int,
    ) -> None:  # fmt: skip
        super().__init__(
            histories, num_recent=num_recent, max_history=1, num_cuts=num_cuts, window=1
        )
        self.teacher = teacher
        width = teacher.items.shape[1]
        self.said = torch.zeros(len(self.histories), num_interests, width)
        for user in teacher.informative(self.histories, informative_share):
            self.said[user] = teacher.interests(self.histories[user], num_interests)

    def __getitem__(self, example: int) -> SemanticCutPoints:
        """Cut, and look up what was said."""
        cut = super().__getitem__(example)
        return SemanticCutPoints(cut.known, cut.cuts, cut.targets, self.said[self.user_of(example)])

    def collate(self, examples: list[SemanticCutPoints]) -> dict[str, Tensor]:  # type: ignore[override]
        """Arguments of `BiLevel.forward`."""
        batch = super().collate(list(examples))
        texts = self.teacher.items[batch["targets"]]
        texts[batch["targets"] == PADDING_INDEX] = 0
        said = torch.stack([example.said for example in examples])
        return batch | {"said": said, "target_texts": texts}


@dataclass(frozen=True)
class SemanticCutPoints(CutPoints):
    """Cut points of a user of whom something was said: [S, E]."""

    said: Tensor
