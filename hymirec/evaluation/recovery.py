"""How far a model's interests are the interests its users were given.

Only a generated world knows the truth (`hymirec.datasets.synthetic`): the topics each user follows,
and the topic of each item. An interest is about the topic that most of its nearest items have.

U users, S interests, K nearest items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

import numpy as np
import torch
from numpy.typing import NDArray

from hymirec.inputs import IndexedHistory
from hymirec.models.base import InterestRecommender


@torch.no_grad()
def interest_topics(
    model: InterestRecommender,
    histories: Sequence[IndexedHistory],
    item_topics: NDArray[np.int64],
    k: int = 10,
) -> NDArray[np.int64]:
    """Topics of the k items nearest to each interest.

    Args:
        model: in evaluation mode.
        histories: of U users.
        item_topics: int64 [N], topic of item index i + 1.
        k: K.

    Returns:
        int64 [U, S, K].
    """
    nearest = (
        (model.encode_user(model.assemble(histories)) @ model.item_vectors()[1:].T)
        .topk(k, dim=2)
        .indices
    )
    return item_topics[nearest.numpy()]


def recovery(
    model: InterestRecommender,
    histories: Sequence[IndexedHistory],
    planted: Sequence[Set[int]],
    item_topics: NDArray[np.int64],
    k: int = 10,
) -> dict[str, float]:
    """Compare interests with the planted ones.

    Args:
        model: in evaluation mode.
        histories: of U users, best of users it was not trained on.
        planted: the topics of each user.
        item_topics: int64 [N], topic of item index i + 1.
        k: how many items nearest to an interest say what it is about.

    Returns:
        `purity`, share of an interest's nearest items on its own topic; `precision`, share of
        interests about a topic planted in their user, and `precision_by_chance`, what the
        interests of other users would have; `recall`, share of the planted topics that an
        interest is about; `several`, share of users of whom two planted topics or more are found;
        `recall_of_older`, the recall of topics that none of the recent items the model reads one
        by one has (not a number where there is none).
    """
    topics = interest_topics(model, histories, item_topics, k)  # [U, S, K]
    counts = (topics[..., None] == np.arange(item_topics.max() + 1)).sum(axis=2)
    about, share = counts.argmax(axis=2), counts.max(axis=2) / k  # [U, S]
    known = [set(of_user.tolist()) & truth for of_user, truth in zip(about, planted, strict=True)]
    how_common = np.array(
        [np.mean([topic in truth for truth in planted]) for topic in range(item_topics.max() + 1)]
    )
    older = [
        truth - set(item_topics[history.items[-model.num_recent :] - 1].tolist())
        for history, truth in zip(histories, planted, strict=True)
    ]
    found_older = sum(len(found & old) for found, old in zip(known, older, strict=True))
    num_older = sum(map(len, older))
    return {
        "purity": float(share.mean()),
        "precision": _mean(
            np.isin(of_user, list(truth)).mean()
            for of_user, truth in zip(about, planted, strict=True)
        ),
        "precision_by_chance": float(how_common[about].mean()),
        "recall": _mean(
            len(found) / len(truth) for found, truth in zip(known, planted, strict=True)
        ),
        "several": _mean(len(found) >= 2 for found in known),
        "recall_of_older": found_older / num_older if num_older else float("nan"),
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
