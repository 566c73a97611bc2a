"""A trained recommender with all it needs to answer: what is registered and served.

    recommender/   settings.json, weights.safetensors (item embeddings and codebook among them),
                   transitions.safetensors where they help
    items.parquet  item_id, title, popularity, text_digest, categories, in the order of item indices
    index.faiss    the items by embedding
    package.json   what belongs together: codebook id, recipe, data digest, columns of text
    digests.json   of all these files (`hymirec.seal`)

Nothing in it is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import faiss
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hymirec.additions import CATEGORIES, TEXT_DIGEST, Additions, text_digest
from hymirec.categories import categories_in, category_column
from hymirec.codebook import Codebook
from hymirec.errors import DataError, VersionError
from hymirec.history import History
from hymirec.inputs import IndexedHistory, index_history
from hymirec.lookup import POPULARITY, ItemLookup, NamedItem, category_lists
from hymirec.models.fused import FusedHyMiRec
from hymirec.models.hymirec import HyMiRec
from hymirec.query import Query
from hymirec.reranking import rerank
from hymirec.retrieval import Hit, ItemIndex, lifted
from hymirec.schema import ITEM_ID, PADDING_INDEX, TITLE
from hymirec.seal import check_seal, naming_the_place, seal
from hymirec.texts import item_texts, text_columns

_NO_VECTORS = np.zeros((0, 0), dtype=np.float32)
NUM_REASONS = 3
"""Items of the history named beside an interest, at most."""

CANDIDATES_PER_ITEM, MIN_CANDIDATES = 4, 100
"""Out of how many a list is chosen that is not simply the best."""

ServedBy = Literal["full", "recent_only", "popular"]
"""`full`: the model, from the user's history. `recent_only`: the model, from nothing but the items
that came with the request. `popular`: the fallback where there is neither."""


class Recommendation(NamedTuple):
    """One recommended item and what it was found by.

    `score` is the cosine with its interest and what transitions add (`hymirec.transitions`), 0
    where no interest found it. `interest`, of all the one nearest to the item, counts from 1 and is
    0 there too; `because` are the items of the user's history nearest to that interest, nearest
    first, where they were asked for.
    """

    item_id: str
    title: str
    score: float
    interest: int
    because: tuple[NamedItem, ...]
    categories: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return self._asdict() | {
            "because": [item._asdict() for item in self.because],
            "categories": list(self.categories),
        }


@dataclass(frozen=True)
class PackageInfo:
    """What belongs together."""

    codebook_id: str
    recipe: str
    data_digest: str
    text_columns: tuple[str, ...] = ()
    """Of the items table, beside the title: what the encoder reads, in this order."""
    category_column: str = ""
    """Which of them holds categories; empty where none does."""


@dataclass(frozen=True)
class RecommenderPackage:
    """Recommends to users given as histories; safe to call from several threads.

    It never changes: `extended` gives another one, with more items.
    """

    model: HyMiRec
    items: pd.DataFrame
    index: ItemIndex
    info: PackageInfo
    _lookup: ItemLookup = field(init=False, repr=False)
    _encode: Callable[[Mapping[str, Tensor]], Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Put the model into evaluation mode and the table into lookups."""
        if self.model.codebook.id != self.info.codebook_id:
            raise VersionError(
                f"the model's codebook is {self.model.codebook.id}, "
                f"its package says {self.info.codebook_id}"
            )
        self.model.eval()
        object.__setattr__(self, "_lookup", ItemLookup.of(self.items))
        fused = FusedHyMiRec.fits(self.model)
        encode = FusedHyMiRec(self.model) if fused else self.model.encode_user
        object.__setattr__(self, "_encode", encode)

    @classmethod
    def assemble(
        cls, model: HyMiRec, items: pd.DataFrame, counts: Tensor, *, recipe: str, data_digest: str
    ) -> RecommenderPackage:
        """Make a package of a trained model.

        Args:
            model: the recommender.
            items: the canonical items table, in the order of item indices.
            counts: int64 [N + 1], training events of each item index.
            recipe: name of the recipe.
            data_digest: of the data set it was trained on.
        """
        digests = [text_digest(text) for text in item_texts(items)]
        table = items[[ITEM_ID, TITLE]].copy()
        table[POPULARITY] = counts[1:].numpy()
        table[TEXT_DIGEST] = digests
        columns, column = tuple(text_columns(items)), category_column(items)
        table[CATEGORIES] = categories_in(items[column]) if column else [[] for _ in digests]
        return cls(
            model=model,
            items=table.reset_index(drop=True),
            index=ItemIndex.build(model.item_vectors().numpy()),
            info=PackageInfo(model.codebook.id, recipe, data_digest, columns, column),
        )

    def extended(self, additions: Additions) -> RecommenderPackage:
        """A package that has these items too, or in their new state; this one stays as it is.

        New items follow the others in the order they come in, with popularity 0.

        Raises:
            DataError: their vectors are of another width.
        """
        vectors = torch.from_numpy(np.array(additions.vectors, dtype=np.float32))
        items = self.model.item_vectors()
        if vectors.shape[1] != items.shape[1]:
            raise DataError(
                f"published items are {vectors.shape[1]} wide, this model's {items.shape[1]}"
            )
        places = [self._lookup.index.get(item, 0) for item in additions.item_ids]
        new = [row for row, place in enumerate(places) if not place]
        changed = [row for row, place in enumerate(places) if place]
        rows = pd.DataFrame(
            {
                ITEM_ID: additions.item_ids,
                TITLE: additions.titles,
                POPULARITY: 0,
                TEXT_DIGEST: additions.digests,
                CATEGORIES: additions.categories,
            }
        )
        known = self.items.copy(deep=False)
        known[CATEGORIES] = category_lists(self.items)
        table = pd.concat([known, rows.iloc[new]], ignore_index=True)
        old_places = [places[row] for row in changed]
        for column in (TITLE, TEXT_DIGEST, CATEGORIES):
            values = table[column].astype(object).to_numpy(copy=True)
            values[[place - 1 for place in old_places]] = rows[column].to_numpy()[changed]
            table[column] = values
        items = torch.cat([items, vectors[new]])
        items[old_places] = vectors[changed]
        return replace(
            self,
            model=self.model.with_catalogue(items, self.model.codebook),
            items=table,
            index=self.index.updated(items.numpy(), old_places),
        )

    def recoded(self, codebook: Codebook) -> RecommenderPackage:
        """The same recommender reading histories with the codes of another codebook."""
        return replace(
            self,
            model=self.model.with_catalogue(self.model.item_vectors(), codebook),
            info=replace(self.info, codebook_id=codebook.id),
        )

    def recommend(
        self, history: History | None, k: int, *, exclude_seen: bool = True
    ) -> tuple[list[Recommendation], ServedBy]:
        """Recommend to one user, with the reasons.

        Args:
            history: the user's events; None, or one without any item of the catalogue, is
                answered with the most popular items.
            k: number of items; fewer come back where the catalogue, or what the user has not
                seen of it, holds fewer.
            exclude_seen: leave out items of the history.

        Returns:
            The recommendations, best first, and which way they were found.

        Raises:
            VersionError: the history's codes are not of this package's codebook.
        """
        query = Query.model_construct(k=k, exclude_seen=exclude_seen, explain=True)
        known, served_by = self.events(history)
        interests = None if known is None else self.interests([known])[0]
        return self.choose(query, known, interests), served_by

    def events(
        self, history: History | None, recent_items: Sequence[str] = ()
    ) -> tuple[IndexedHistory | None, ServedBy]:
        """What there is to go by: a history's events, then items that came with a request.

        Args:
            history: the user's events, if there are any.
            recent_items: what the user has just looked at, the latest last; items that the
                catalogue does not hold are passed over.

        Returns:
            The events of the catalogue's items, None where there is none, and which way that is.

        Raises:
            VersionError: the history's codes are not of this package's codebook.
        """
        if history is not None and history.codebook_id != self.info.codebook_id:
            raise VersionError(
                f"history codes are of codebook {history.codebook_id}, "
                f"this model reads codebook {self.info.codebook_id}"
            )
        stored = None if history is None else index_history(history, self._lookup.index)
        recent = self._recent_events(recent_items)
        if stored is None or not len(stored):
            return (recent, "recent_only") if len(recent) else (None, "popular")
        if not len(recent):
            return stored, "full"
        # What has just been looked at may have come in as events already.
        latest = stored.items[-len(recent) :].tolist()
        if latest == recent.items.tolist():
            return stored, "full"
        # As of now: later than all that is stored, and models read the order alone.
        times = np.full(len(recent), stored.times[-1], dtype=np.int64)
        joined = IndexedHistory(
            np.concatenate([stored.items, recent.items]),
            np.concatenate([stored.codes, recent.codes]),
            np.concatenate([stored.times, times]),
        )
        return joined, "full"

    @torch.inference_mode()
    def interests(self, users: Sequence[IndexedHistory]) -> NDArray[np.float32]:
        """What users with events are interested in, float32 [U, S, D] at unit length."""
        return self._encode(self.model.assemble(users)).numpy()

    def choose(
        self,
        query: Query,
        known: IndexedHistory | None,
        interests: NDArray[np.float32] | None,
    ) -> list[Recommendation]:
        """Choose items for one user; filters hold before the list is cut to k.

        Args:
            query: what is asked for.
            known: the user's events, see `events`.
            interests: float32 [S, D], see `interests`; None where there are no events, and the
                most popular items are chosen.

        Returns:
            Best first; fewer than k where no more items pass.
        """
        allowed = self._lookup.allowed(query.filters)
        seen: Sequence[int] | NDArray[np.int64] = ()
        if known is not None and query.exclude_seen:
            seen = known.items
        if interests is None or known is None:
            hits = self._popular(query, allowed)
            because: dict[int, tuple[NamedItem, ...]] = {}
        else:
            hits = self._best_for(interests, known.items, query, seen, allowed)
            because = {
                interest: self._nearest(interests[interest], known.items)
                for interest in {hit.interest for hit in hits if query.explain}
            }
        return [
            Recommendation(
                *self._lookup.named(hit.item), hit.score, hit.interest + 1,
                because.get(hit.interest, ()), self._lookup.categories[hit.item - 1],
            )
            for hit in hits
        ]  # fmt: skip

    @property
    def item_index(self) -> Mapping[str, int]:
        """The model's index of each item id, from 1."""
        return self._lookup.index

    def popular(self, k: int) -> list[int]:
        """Indices of the k most popular items, most popular first."""
        return self._lookup.by_popularity[:k].tolist()

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        """Titles of items; an item that is not in the catalogue goes by its id."""
        return self._lookup.titles_of(item_ids)

    def save(self, directory: Path) -> None:
        """Write to a directory that does not exist yet."""
        directory.mkdir(parents=True)
        self.model.save(directory / "recommender")
        self.items.to_parquet(directory / "items.parquet", index=False)
        faiss.write_index(self.index.faiss_index, str(directory / "index.faiss"))
        (directory / "package.json").write_text(json.dumps(asdict(self.info), indent=2))
        seal(directory)

    @classmethod
    def load(cls, directory: Path) -> RecommenderPackage:
        """Read what `save` wrote.

        Raises:
            DataError: a file is damaged or missing.
            VersionError: model and package are of different codebooks.
        """
        check_seal(directory)
        with naming_the_place(directory):
            return cls(
                model=HyMiRec.load(directory / "recommender"),
                items=pd.read_parquet(directory / "items.parquet"),
                index=ItemIndex(faiss.read_index(str(directory / "index.faiss"))),
                info=_read_info(directory / "package.json"),
            )

    def _recent_events(self, item_ids: Sequence[str]) -> IndexedHistory:
        places = (self._lookup.index.get(item, PADDING_INDEX) for item in item_ids)
        items = np.array([place for place in places if place != PADDING_INDEX], dtype=np.int64)
        if not len(items):
            return IndexedHistory.of(items)
        distinct, inverse = np.unique(items, return_inverse=True)
        codes = self.model.codebook.encode(self.model.item_vectors()[distinct]).numpy()
        return IndexedHistory.of(items, codes[inverse])

    def _popular(self, query: Query, allowed: NDArray[np.bool_] | None) -> list[Hit]:
        order = self._lookup.by_popularity
        if allowed is not None:
            order = order[allowed[order]]
        if query.max_per_category is None:
            order = order[: query.k]
        hits = [Hit(item, 0.0, -1) for item in order.tolist()]
        return self._reranked(hits, query, diversity=0.0)

    def _best_for(
        self, interests: NDArray[np.float32], events: NDArray[np.int64], query: Query,
        seen: Sequence[int] | NDArray[np.int64], allowed: NDArray[np.bool_] | None,
    ) -> list[Hit]:  # fmt: skip
        transitions = self.model.transitions
        lift = None if transitions is None else transitions.lift(events)
        vectors = self.model.item_vectors().numpy()

        def best(k: int) -> list[Hit]:
            nearest = self.index.search(interests, k, excluded=seen, allowed=allowed)
            if lift is None:
                return nearest
            return lifted(nearest, lift, vectors, interests, k, seen, allowed)

        if not query.diversity and query.max_per_category is None:
            return best(query.k)
        pool = max(MIN_CANDIDATES, CANDIDATES_PER_ITEM * query.k)
        while True:
            hits = best(pool)
            found = self._reranked(hits, query, diversity=query.diversity)
            if len(found) == query.k or len(hits) < pool:
                return found
            pool *= CANDIDATES_PER_ITEM  # categories were full before there were enough

    def _reranked(self, hits: list[Hit], query: Query, *, diversity: float) -> list[Hit]:
        items = [hit.item for hit in hits]
        return rerank(
            hits,
            self.model.item_vectors()[items].numpy() if diversity else _NO_VECTORS,
            query.k,
            diversity=diversity,
            categories=[self._lookup.categories[item - 1] for item in items],
            max_per_category=query.max_per_category,
        )

    def _nearest(
        self, interest: NDArray[np.float32], items: NDArray[np.int64]
    ) -> tuple[NamedItem, ...]:
        """The items of a history nearest to an interest by cosine, nearest first."""
        distinct = np.unique(items)
        cosine = self.model.item_vectors()[distinct].numpy() @ interest
        best = (-cosine).argsort(kind="stable")[:NUM_REASONS]
        return tuple(self._lookup.named(item) for item in distinct[best].tolist())


def _read_info(path: Path) -> PackageInfo:
    values = json.loads(path.read_text())
    return PackageInfo(**values | {"text_columns": tuple(values.get("text_columns", ()))})
