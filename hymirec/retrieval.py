"""Finding items for interests: FAISS, and the merging of several interests into one list.

U users, S interests, D width, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from hymirec.schema import PADDING_INDEX
from hymirec.transitions import Lift

MOST_EXACT = 50_000
"""Items that are searched one by one; of more, only those in cells near an interest."""
TARGET_RECALL = 0.99
NUM_PROBES, PROBED_ITEMS = 256, 100
"""Interests and items of each that recall is measured with."""
PROBE_NOISE = 0.75
"""Length of what is added to an item to make an interest of it: a cosine of 0.8."""
POINTS_PER_CELL = 64
"""That its centre is learned from."""
ROUNDING = 1e-5
"""Of cosines computed in different ways."""
FEW = 0.1
"""Of the items: a filter that leaves fewer is searched exactly, which then costs little."""


class Hit(NamedTuple):
    """An item found.

    `score` is the best cosine over the interests and what lifts the item, and `interest` the
    interest (0..S-1) that has that cosine.
    """

    item: int
    score: float
    interest: int


@dataclass(frozen=True)
class ItemIndex:
    """An inner-product index over unit item vectors; FAISS's ids are item indices.

    Up to `MOST_EXACT` items it is exact. A larger catalogue is cut into cells (FAISS's inverted
    file), of which so many are searched that `TARGET_RECALL` of the nearest items are found, as
    measured when the index is built.
    """

    faiss_index: faiss.Index

    @classmethod
    def build(cls, vectors: NDArray[np.float32]) -> ItemIndex:
        """Index vectors [N + 1, D]; row 0, padding, is never found."""
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        exact = faiss.IndexFlatIP(vectors.shape[1])
        exact.add(vectors)
        return cls(exact if len(vectors) - 1 <= MOST_EXACT else _cells(vectors, exact))

    def updated(self, vectors: NDArray[np.float32], changed: Sequence[int]) -> ItemIndex:
        """An index of vectors [N' + 1, D] that begin with the N there are, some of them changed.

        The cells stay as they are; this index does too.
        """
        if not isinstance(self.faiss_index, faiss.IndexIVF):
            return self.build(vectors)
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        index = faiss.clone_index(self.faiss_index)
        old = np.asarray(changed, dtype=np.int64)
        new = np.arange(index.ntotal, len(vectors), dtype=np.int64)
        index.remove_ids(faiss.IDSelectorBatch(old))
        places = np.concatenate([old, new])
        index.add_with_ids(vectors[places], places)
        return ItemIndex(index)

    @property
    def num_items(self) -> int:
        """N, padding not counted."""
        return self.faiss_index.ntotal - 1

    def search(
        self,
        interests: NDArray[np.float32],
        k: int,
        excluded: Sequence[int] | NDArray[np.int64] = (),
        allowed: NDArray[np.bool_] | None = None,
    ) -> list[Hit]:
        """Find the k items nearest to any interest of one user.

        Exclusion happens inside the search, so k items come back while there are k. An item that
        several interests find is listed once, for the interest that likes it best.

        Args:
            interests: [S, D] at unit length.
            k: number of items; more than there are is the same as all.
            excluded: item indices that may not be listed.
            allowed: bool [N + 1], which item indices may be listed; None allows all.

        Returns:
            At most k hits, best first; ties in the order of item indices.
        """
        total = self.faiss_index.ntotal
        barred = np.asarray(excluded, dtype=np.int64)
        barred = np.append(barred[barred < total], 0)  # others take no place in the list
        if allowed is None:
            # One bit an item is looked up faster than a set, whatever its size.
            bits = np.zeros(total // 8 + 1, dtype=np.uint8)
            np.bitwise_or.at(bits, barred >> 3, (1 << (barred & 7)).astype(np.uint8))
            num_open = total - int(np.bitwise_count(bits).sum())
            selector: faiss.IDSelector = faiss.IDSelectorNot(_bitmap(bits))
        else:
            free = allowed.copy()
            free[barred] = False
            bits = np.packbits(free, bitorder="little")
            num_open = int(np.count_nonzero(free))
            selector = _bitmap(bits)
        wanted = min(k, num_open)
        if wanted <= 0:
            return []
        queries = np.ascontiguousarray(interests, dtype=np.float32)
        scores, items = self._nearest(queries, wanted, selector, share=num_open / total)
        best: dict[int, Hit] = {}
        for interest, row in enumerate(zip(items.tolist(), scores.tolist(), strict=True)):
            for item, score in zip(*row, strict=True):
                if item >= 0 and (item not in best or score > best[item].score):
                    best[item] = Hit(item, score, interest)
        return sorted(best.values(), key=lambda hit: (-hit.score, hit.item))[:wanted]

    def _nearest(
        self, queries: NDArray[np.float32], k: int, selector: faiss.IDSelector, share: float
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and items [S, k]; all cells are searched where some would not do."""
        index = self.faiss_index
        if not isinstance(index, faiss.IndexIVF):
            return index.search(queries, k, params=_parameters(faiss.SearchParameters, selector))
        cells = index.nlist if share < FEW else index.nprobe
        scores, items = index.search(
            queries, k, params=_parameters(faiss.SearchParametersIVF, selector, nprobe=cells)
        )
        if cells < index.nlist and (items < 0).any():
            every = _parameters(faiss.SearchParametersIVF, selector, nprobe=index.nlist)
            scores, items = index.search(queries, k, params=every)
        return scores, items


def lifted(
    nearest: Sequence[Hit],
    lift: Lift,
    vectors: NDArray[np.float32],
    interests: NDArray[np.float32],
    k: int,
    excluded: Sequence[int] | NDArray[np.int64] = (),
    allowed: NDArray[np.bool_] | None = None,
) -> list[Hit]:
    """The k best items by cosine and lift together, from the k nearest by cosine.

    The list is as exact as theirs: lifts are above zero, so an item without one that is not among
    the k nearest is beaten by all of them.

    Args:
        nearest: what `ItemIndex.search` found for the same interests, k, excluded and allowed.
        lift: of one user's items.
        vectors: [N + 1, D], of all items.
        interests: [S, D] at unit length.
        k: number of items.
        excluded: item indices that may not be listed.
        allowed: bool [N + 1], as in `ItemIndex.search`.

    Returns:
        At most k hits, best first; ties in the order of item indices.
    """
    if not nearest:
        return []
    found = np.array([hit.item for hit in nearest])
    owners = np.array([hit.interest for hit in nearest])
    scores = np.array([hit.score for hit in nearest], dtype=np.float32)
    largest = scores[0]
    scores += _lifts_of(found, lift)
    # No other cosine is above the largest: most items have too little lift to come into the list.
    needed = scores.min() - largest - ROUNDING if len(nearest) == k else -np.inf
    items = lift.items[lift.values >= needed]
    free = np.ones(len(vectors), dtype=bool) if allowed is None else allowed.copy()
    free[np.asarray(excluded, dtype=np.int64)] = False
    free[found] = False
    free[PADDING_INDEX] = False
    items = items[free[items]]
    cosines = vectors[items] @ interests.T  # [n, S]
    found = np.concatenate([found, items])
    owners = np.concatenate([owners, cosines.argmax(axis=1)])
    scores = np.concatenate([scores, cosines.max(axis=1) + _lifts_of(items, lift)])
    best = np.lexsort((found, -scores))[:k]
    return [
        Hit(*one)
        for one in zip(
            found[best].tolist(), scores[best].tolist(), owners[best].tolist(), strict=True
        )
    ]


def _lifts_of(items: NDArray[np.integer], lift: Lift) -> NDArray[np.float32]:
    """Of any items, 0 where there is none."""
    if not len(lift.items):
        return np.zeros(len(items), dtype=np.float32)
    places = np.searchsorted(lift.items, items).clip(max=len(lift.items) - 1)
    return np.where(lift.items[places] == items, lift.values[places], np.float32(0))


def _cells(vectors: NDArray[np.float32], exact: faiss.IndexFlat) -> faiss.IndexIVFFlat:
    """Cut a catalogue into cells, and find out how many have to be searched."""
    width = vectors.shape[1]
    num_cells = int(2 * len(vectors) ** 0.5)
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(width), width, num_cells, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.max_points_per_centroid = POINTS_PER_CELL
    index.cp.spherical = True
    index.train(vectors[1:])
    index.add(vectors)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((NUM_PROBES, width)).astype(np.float32)
    noise *= PROBE_NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
    queries = vectors[rng.integers(1, len(vectors), NUM_PROBES)] + noise
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    k = min(PROBED_ITEMS, len(vectors))
    true = exact.search(queries, k)[1]
    index.nprobe = 1
    while index.nprobe < num_cells:
        found = index.search(queries, k)[1]
        shared = [len(np.intersect1d(*pair)) for pair in zip(true, found, strict=True)]
        if sum(shared) >= TARGET_RECALL * k * NUM_PROBES:
            break
        index.nprobe = min(num_cells, index.nprobe + max(1, index.nprobe // 2))
    return index


def _bitmap(bits: NDArray[np.uint8]) -> faiss.IDSelectorBitmap:
    # The wrapper takes an array; FAISS's types tell of the C++ constructor.
    return faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]


def _parameters(kind: type, selector: faiss.IDSelector, **values: int) -> faiss.SearchParameters:
    return kind(sel=selector, **values)
