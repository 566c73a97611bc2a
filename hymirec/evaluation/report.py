"""Everything that is reported of a model on one split: metrics, slices, lists, and user by user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from hymirec.evaluation.lists import item_categories, item_words, list_measures
from hymirec.evaluation.metrics import DEFAULT_CUTOFFS, recall_at, summarise
from hymirec.evaluation.protocol import Answers, answer_cases
from hymirec.long_work import lines
from hymirec.models.base import Recommender
from hymirec.schema import USER_ID
from hymirec.splits import Case

LIST_LENGTH = 10
"""Of the lists that are kept and measured."""
LENGTH_EDGES = (0, 20, 50, 100, 200, 500, 1000)
"""History lengths at which a slice begins."""
RANK, SEEN_KEPT_RANK, LENGTH, TARGET, LISTED = (
    "rank",
    "seen_kept_rank",
    "length",
    "target",
    "listed",
)


@dataclass(frozen=True)
class Catalogue:
    """What evaluation knows of items; computed once for all models.

    Attributes:
        occurrences: int64 [N + 1], events of each item in training.
        words: see `hymirec.evaluation.lists.item_words`.
        categories: see `hymirec.evaluation.lists.item_categories`.
    """

    occurrences: NDArray[np.int64]
    words: csr_array
    categories: csr_array | None

    @classmethod
    def of(cls, items: pd.DataFrame, occurrences: Tensor) -> Catalogue:
        """Of the canonical items table, whose row i is item index i + 1."""
        return cls(occurrences.numpy(), item_words(items), item_categories(items))


@dataclass(frozen=True)
class Report:
    """What a model came to.

    Attributes:
        metrics: `R@k` and `N@k`, seen items left out; the same as `seen_kept_…`; of windows,
            `window_R@k`, the share of a window's items found; of targets never trained on, as
            `cold_…`; of slices by history length, as `length_20_50/…`; and the measures of
            `hymirec.evaluation.lists.list_measures`.
        users: one row a case: user id, ranks, history length, target and list by item index.
    """

    metrics: dict[str, float]
    users: pd.DataFrame


def evaluate(
    model: Recommender,
    cases: Sequence[Case],
    user_ids: Sequence[str],
    catalogue: Catalogue,
    *,
    answer: AnswerCases | None = None,
) -> Report:
    """Ask a model about every case and measure its answers.

    Args:
        model: any recommender.
        cases: of a split; each names its user.
        user_ids: of all users of the split.
        catalogue: of the split's training part.
        answer: asks the model, by default here and now.
    """
    answers = answer(cases) if answer else answer_here(model, cases)
    ranks, with_seen = answers.ranks[:, 0], answers.seen_kept
    targets = np.array([case.target for case in cases])
    lengths = np.array([len(case.known) for case in cases])
    lists = answers.lists.numpy()
    metrics = (
        summarise(ranks)
        | _prefixed("seen_kept_", summarise(with_seen))
        | _window_metrics(answers)
        | cold_metrics(ranks, targets, catalogue.occurrences)
        | length_slices(ranks, lengths)
        | list_measures(
            lists,
            [case.known for case in cases],
            catalogue.occurrences,
            catalogue.words,
            catalogue.categories,
        )
    )
    users = pd.DataFrame(
        {
            USER_ID: [user_ids[case.user] for case in cases],
            RANK: ranks.numpy(),
            SEEN_KEPT_RANK: with_seen.numpy(),
            LENGTH: lengths,
            TARGET: targets,
            LISTED: list(lists),
        }
    )
    return Report(metrics, users)


AnswerCases = Callable[[Sequence[Case]], Answers]
"""Asks a model about cases, keeping lists of `LIST_LENGTH`."""


def answer_here(model: Recommender, cases: Sequence[Case]) -> Answers:
    """Ask a model about cases in this process, telling how far it has come."""
    return answer_cases(
        model, cases, list_length=LIST_LENGTH, progress=lines("evaluation", "users")
    )


def cold_metrics(
    ranks: Tensor, targets: NDArray[np.int64], occurrences: NDArray[np.int64]
) -> dict[str, float]:
    """Metrics of the cases whose target was never seen in training: recommended by text alone.

    Args:
        ranks: [cases].
        targets: [cases], item indices.
        occurrences: [N + 1], how often an item occurs in training.

    Returns:
        `cold_cases`, their number, and where there are any, metrics with the prefix `cold_`.
    """
    cold = torch.from_numpy(occurrences[targets] == 0)
    table = {"cold_cases": float(cold.sum())}
    return table | (_prefixed("cold_", summarise(ranks[cold])) if cold.any() else {})


def length_slices(ranks: Tensor, lengths: NDArray[np.int64]) -> dict[str, float]:
    """Metrics by length of the known history: HyMiRec's claim is about the long ones.

    Returns:
        For each slice between two of `LENGTH_EDGES` that has cases, `length_20_50/cases` and
        metrics as `length_20_50/R@10`; the last is open: `length_1000_up/…`.
    """
    table: dict[str, float] = {}
    for low, high in zip(LENGTH_EDGES, (*LENGTH_EDGES[1:], None), strict=True):
        some = torch.from_numpy((lengths >= low) & (lengths < (high or np.inf)))
        if some.any():
            name = f"length_{low}_{high or 'up'}/"
            table[name + "cases"] = float(some.sum())
            table |= _prefixed(name, summarise(ranks[some]))
    return table


def _window_metrics(answers: Answers) -> dict[str, float]:
    """Share of each window's items found in the first k, mean over cases."""
    if answers.ranks.shape[1] == 1:
        return {}
    asked = ~answers.ranks.isnan()
    return {
        f"window_R@{k}": float(
            ((recall_at(answers.ranks, k) * asked).sum(dim=1) / asked.sum(dim=1)).mean()
        )
        for k in DEFAULT_CUTOFFS
    }


def _prefixed(prefix: str, table: dict[str, float]) -> dict[str, float]:
    return {prefix + name: value for name, value in table.items()}
