"""A trained recommender with all it needs to answer: what is registered and served.

    recommender/   settings.json, weights.safetensors (item embeddings and codebook among them)
    items.parquet  item_id, title, popularity, text_digest, in the order of item indices
    index.faiss    the items by embedding
    package.json   what belongs together: codebook id, recipe, data digest, columns of text

Nothing in it is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import faiss
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hymirec.additions import TEXT_DIGEST, Additions, text_digest
from hymirec.codebook import Codebook
from hymirec.errors import DataError, VersionError
from hymirec.history import History
from hymirec.inputs import index_history, number_items
from hymirec.models.hymirec import HyMiRec
from hymirec.retrieval import ItemIndex
from hymirec.schema import ITEM_ID, TITLE
from hymirec.texts import item_texts, text_columns

POPULARITY = "popularity"
NUM_REASONS = 3
"""Items of the history named beside an interest, at most."""

ServedBy = Literal["full", "popular"]
"""`full`: the model, from the user's history. `popular`: the fallback for a user without one."""


class NamedItem(NamedTuple):
    """An item as people and programs know it."""

    item_id: str
    title: str


class Recommendation(NamedTuple):
    """One recommended item and what it was found by.

    `interest` counts from 1 and is 0 where no interest found it; `because` are the items of the
    user's history nearest to that interest, nearest first.
    """

    item_id: str
    title: str
    score: float
    interest: int
    because: tuple[NamedItem, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return self._asdict() | {"because": [item._asdict() for item in self.because]}


@dataclass(frozen=True)
class PackageInfo:
    """What belongs together."""

    codebook_id: str
    recipe: str
    data_digest: str
    text_columns: tuple[str, ...] = ()
    """Of the items table, beside the title: what the encoder reads, in this order."""


@dataclass(frozen=True)
class RecommenderPackage:
    """Recommends to users given as histories; safe to call from several threads.

    It never changes: `extended` gives another one, with more items.
    """

    model: HyMiRec
    items: pd.DataFrame
    index: ItemIndex
    info: PackageInfo
    _item_index: dict[str, int] = field(init=False, repr=False)
    _item_ids: list[str] = field(init=False, repr=False)
    _titles: list[str] = field(init=False, repr=False)
    _by_popularity: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Put the model into evaluation mode and the tables into lookups."""
        if self.model.codebook.id != self.info.codebook_id:
            raise VersionError(
                f"the model's codebook is {self.model.codebook.id}, "
                f"its package says {self.info.codebook_id}"
            )
        self.model.eval()
        ids = self.items[ITEM_ID].tolist()
        order = (-self.items[POPULARITY].to_numpy()).argsort(kind="stable")
        for name, value in {
            "_item_ids": ids,
            "_titles": self.items[TITLE].fillna("").tolist(),
            "_item_index": number_items(ids),
            "_by_popularity": (order + 1).tolist(),
        }.items():
            object.__setattr__(self, name, value)

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
        columns = tuple(text_columns(items))
        return cls(
            model=model,
            items=table.reset_index(drop=True),
            index=ItemIndex.build(model.item_vectors().numpy()),
            info=PackageInfo(model.codebook.id, recipe, data_digest, columns),
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
        places = [self._item_index.get(item, 0) for item in additions.item_ids]
        new = [row for row, place in enumerate(places) if not place]
        changed = [row for row, place in enumerate(places) if place]
        rows = pd.DataFrame(
            {
                ITEM_ID: additions.item_ids,
                TITLE: additions.titles,
                POPULARITY: 0,
                TEXT_DIGEST: additions.digests,
            }
        )
        table = pd.concat([self.items, rows.iloc[new]], ignore_index=True)
        old_places = [places[row] for row in changed]
        for column in (TITLE, TEXT_DIGEST):
            values = table[column].astype(object).to_numpy(copy=True)
            values[[place - 1 for place in old_places]] = rows[column].to_numpy()[changed]
            table[column] = values
        items = torch.cat([items, vectors[new]])
        items[old_places] = vectors[changed]
        return replace(
            self,
            model=self.model.with_catalogue(items, self.model.codebook),
            items=table,
            index=ItemIndex.build(items.numpy()),
        )

    def recoded(self, codebook: Codebook) -> RecommenderPackage:
        """The same recommender reading histories with the codes of another codebook."""
        return replace(
            self,
            model=self.model.with_catalogue(self.model.item_vectors(), codebook),
            info=replace(self.info, codebook_id=codebook.id),
        )

    @torch.no_grad()
    def recommend(
        self, history: History | None, k: int, *, exclude_seen: bool = True
    ) -> tuple[list[Recommendation], ServedBy]:
        """Recommend to one user.

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
        if history is not None and history.codebook_id != self.info.codebook_id:
            raise VersionError(
                f"history codes are of codebook {history.codebook_id}, "
                f"this model reads codebook {self.info.codebook_id}"
            )
        known = None if history is None else index_history(history, self._item_index)
        if known is None or not len(known):
            return [
                Recommendation(*self._named(item), 0.0, 0, ()) for item in self.popular(k)
            ], "popular"
        interests = self.model.encode_user(self.model.assemble([known]))[0].numpy()
        seen: Sequence[int] = known.items.tolist() if exclude_seen else ()
        hits = self.index.search(interests, k, excluded=seen)
        because = {
            interest: self._nearest(interests[interest], known.items)
            for interest in {hit.interest for hit in hits}
        }
        found = [
            Recommendation(
                *self._named(hit.item), hit.score, hit.interest + 1, because[hit.interest]
            )
            for hit in hits
        ]
        return found, "full"

    @property
    def item_index(self) -> Mapping[str, int]:
        """The model's index of each item id, from 1."""
        return self._item_index

    def popular(self, k: int) -> list[int]:
        """Indices of the k most popular items, most popular first."""
        return self._by_popularity[:k]

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        """Titles of items; an item that is not in the catalogue goes by its id."""
        places = (self._item_index.get(item) for item in item_ids)
        return [
            self._titles[place - 1] if place else item
            for place, item in zip(places, item_ids, strict=True)
        ]

    def save(self, directory: Path) -> None:
        """Write to a directory that does not exist yet."""
        directory.mkdir(parents=True)
        self.model.save(directory / "recommender")
        self.items.to_parquet(directory / "items.parquet", index=False)
        faiss.write_index(self.index.faiss_index, str(directory / "index.faiss"))
        (directory / "package.json").write_text(json.dumps(asdict(self.info), indent=2))

    @classmethod
    def load(cls, directory: Path) -> RecommenderPackage:
        """Read what `save` wrote."""
        return cls(
            model=HyMiRec.load(directory / "recommender"),
            items=pd.read_parquet(directory / "items.parquet"),
            index=ItemIndex(faiss.read_index(str(directory / "index.faiss"))),
            info=_read_info(directory / "package.json"),
        )

    def _named(self, item: int) -> NamedItem:
        return NamedItem(self._item_ids[item - 1], self._titles[item - 1])

    def _nearest(
        self, interest: NDArray[np.float32], items: NDArray[np.int64]
    ) -> tuple[NamedItem, ...]:
        """The items of a history nearest to an interest by cosine, nearest first."""
        distinct = np.unique(items)
        cosine = self.model.item_vectors()[distinct].numpy() @ interest
        best = (-cosine).argsort(kind="stable")[:NUM_REASONS]
        return tuple(self._named(item) for item in distinct[best].tolist())


def _read_info(path: Path) -> PackageInfo:
    values = json.loads(path.read_text())
    return PackageInfo(**values | {"text_columns": tuple(values.get("text_columns", ()))})
