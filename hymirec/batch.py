"""Recommendations to many users at once: what `RecommenderPackage.recommend` gives to each.

B users, S interests, D width, N items, k items recommended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from hymirec.errors import VersionError
from hymirec.history import History
from hymirec.inputs import IndexedHistory, index_history
from hymirec.package import RecommenderPackage, ServedBy
from hymirec.schema import ITEM_ID, PADDING_INDEX, USER_ID

SCORES_AT_ONCE = 2**24
"""Cosines, users by interests by items, that are held at once: 64 MB."""
USERS_AT_ONCE = 256

SCORE, INTEREST, SERVED_BY = "score", "interest", "served_by"
LISTS_SCHEMA = pa.schema(
    [
        (USER_ID, pa.string()),
        (ITEM_ID, pa.list_(pa.string())),
        (SCORE, pa.list_(pa.float32())),
        (INTEREST, pa.list_(pa.int16())),
        (SERVED_BY, pa.string()),
    ]
)
"""One row a user: items best first, beside each its score and the interest that found it, which
counts from 1 and is 0 where none did."""


@dataclass(frozen=True)
class Lists:
    """What is recommended to B users.

    Attributes:
        items: int64 [B, k] item indices, best first, 0 where there are no more.
        scores: float32 [B, k], the best cosine over the interests and what transitions add to it.
        interests: int16 [B, k], from 1; 0 where no interest found the item.
        served_by: of each user, see `ServedBy`.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    interests: NDArray[np.int16]
    served_by: list[ServedBy]

    def table(self, user_ids: Sequence[str], item_ids: NDArray[np.object_]) -> pa.Table:
        """The lists by the names of users and items (N, by index - 1), as `LISTS_SCHEMA` says."""
        present = self.items != PADDING_INDEX
        ends = np.append(0, np.cumsum(present.sum(axis=1))).astype(np.int32)
        columns = [
            pa.array(list(user_ids), pa.string()),
            *(
                pa.ListArray.from_arrays(pa.array(ends), pa.array(values[present], of.value_type))
                for values, of in (
                    (item_ids[self.items - 1], LISTS_SCHEMA.field(ITEM_ID).type),
                    (self.scores, LISTS_SCHEMA.field(SCORE).type),
                    (self.interests, LISTS_SCHEMA.field(INTEREST).type),
                )
            ),
            pa.array(self.served_by, pa.string()),
        ]
        return pa.table(columns, schema=LISTS_SCHEMA)


def recommend_many(
    package: RecommenderPackage,
    histories: Sequence[History | None],
    k: int,
    *,
    exclude_seen: bool = True,
) -> Lists:
    """Recommend to B users; memory beside the result does not grow with B.

    Args:
        package: the recommender.
        histories: of each user, None for one without.
        k: number of items.
        exclude_seen: leave out items of the history.

    Raises:
        VersionError: a history's codes are not of this package's codebook.
    """
    index = package.item_index
    known = []
    for history in histories:
        if history is not None and history.codebook_id != package.info.codebook_id:
            raise VersionError(
                f"history codes are of codebook {history.codebook_id}, "
                f"this model reads codebook {package.info.codebook_id}"
            )
        known.append(None if history is None else index_history(history, index))
    items = np.zeros((len(histories), k), dtype=np.int64)
    scores = np.zeros((len(histories), k), dtype=np.float32)
    interests = np.zeros((len(histories), k), dtype=np.int16)
    popular = package.popular(k)
    items[:, : len(popular)] = popular
    served_by: list[ServedBy] = ["popular"] * len(histories)
    full = [place for place, one in enumerate(known) if one is not None and len(one)]
    # Those of like length share a batch.
    full.sort(key=lambda place: len(known[place] or ()))
    items[full] = 0
    for places, lists in _batches(package, known, full, k, exclude_seen):
        width = lists[0].shape[1]
        items[places, :width], scores[places, :width], interests[places, :width] = lists
        for place in places:
            served_by[place] = "full"
    return Lists(items, scores, interests, served_by)


@torch.no_grad()
def _batches(
    package: RecommenderPackage, known: Sequence[IndexedHistory | None], order: Sequence[int],
    k: int, exclude_seen: bool,
) -> Iterator[tuple[Sequence[int], tuple[NDArray, NDArray, NDArray]]]:  # fmt: skip
    vectors, transitions = package.model.item_vectors(), package.model.transitions
    batch_size = 1  # the first tells how many interests there are
    start = 0
    while start < len(order):
        places = order[start : start + batch_size]
        batch = [one for place in places if (one := known[place]) is not None]
        interests = package.model.encode_user(package.model.assemble(batch))  # [B, S, D]
        cosines = interests @ vectors.T  # [B, S, N + 1]
        best, owner = torch.max(cosines, dim=1)  # [B, N + 1]
        if transitions is not None:
            best += torch.from_numpy(transitions.lifts([one.items for one in batch]).toarray())
        best[:, PADDING_INDEX] = -torch.inf
        if exclude_seen:
            rows = np.repeat(np.arange(len(batch)), [len(one) for one in batch])
            items = np.concatenate([one.items for one in batch])
            best[torch.from_numpy(rows), torch.from_numpy(items)] = -torch.inf
        yield places, _top(best, owner, k)
        start += len(places)
        batch_size = max(1, min(USERS_AT_ONCE, SCORES_AT_ONCE // cosines[0].numel()))


def _top(best: Tensor, owner: Tensor, k: int) -> tuple[NDArray, NDArray, NDArray]:
    """Items [B, ≤ k], their scores and interests; ties in the order of item indices."""
    scores, items = best.topk(min(k, best.shape[1]), dim=1)
    items, order = items.sort(dim=1)
    scores = scores.gather(1, order)
    order = scores.argsort(dim=1, descending=True, stable=True)
    items, scores = items.gather(1, order), scores.gather(1, order)
    interests = owner.gather(1, items) + 1
    gone = scores == -torch.inf
    return (
        items.masked_fill(gone, PADDING_INDEX).numpy(),
        scores.masked_fill(gone, 0).numpy(),
        interests.masked_fill(gone, 0).numpy(),
    )
