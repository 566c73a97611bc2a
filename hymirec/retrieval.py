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


class Hit(NamedTuple):
    """An item found.

    `score` is the best cosine over the interests, and `interest` the interest (0..S-1) that has
    it.
    """

    item: int
    score: float
    interest: int


@dataclass(frozen=True)
class ItemIndex:
    """An exact inner-product index over unit item vectors; FAISS's rows are item indices."""

    faiss_index: faiss.Index

    @classmethod
    def build(cls, vectors: NDArray[np.float32]) -> ItemIndex:
        """Index vectors [N + 1, D]; row 0, padding, is never found."""
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        return cls(index)

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
        barred = np.unique(np.append(np.asarray(excluded, dtype=np.int64), 0))
        barred = barred[barred < self.faiss_index.ntotal]  # others take no place in the list
        if allowed is None:
            num_open = self.faiss_index.ntotal - len(barred)
            selector: faiss.IDSelector = faiss.IDSelectorNot(faiss.IDSelectorBatch(barred))
        else:
            free = allowed.copy()
            free[barred] = False
            num_open = int(np.count_nonzero(free))
            bits = np.packbits(free, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]
        wanted = min(k, num_open)
        if wanted <= 0:
            return []
        scores, items = self.faiss_index.search(
            np.ascontiguousarray(interests, dtype=np.float32),
            wanted,
            params=faiss.SearchParameters(sel=selector),  # type: ignore[call-arg]
        )
        best: dict[int, Hit] = {}
        for interest, row in enumerate(zip(items.tolist(), scores.tolist(), strict=True)):
            for item, score in zip(*row, strict=True):
                if item >= 0 and (item not in best or score > best[item].score):
                    best[item] = Hit(item, score, interest)
        return sorted(best.values(), key=lambda hit: (-hit.score, hit.item))[:wanted]
