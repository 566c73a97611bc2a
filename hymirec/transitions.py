"""Which item follows which: counted in training histories and added to the cosine.

A cosine of two vectors of some hundred numbers says what an item is near to. It cannot say that of
two items equally near one is what people usually go on to from the very last. Counts can, for the
pairs of which there are enough. Of a user whose items are a₀ (the latest), a₁, a₂, …

    share(i) = Σⱼ decayʲ · R[aⱼ, i]        R[a, i] = M[a, i] / (Σᵢ M[a, i] + smoothing)
    score(i) = best cosine + τ · weight · log(1 + share(i) / floor)

where M[a, i] is how often i came after a, g events later counting 1/g. The logarithm is that of
share + floor but for a constant: an item that never came after any of the last ones keeps its
cosine, and so does a new one. τ, the temperature that the model was trained with, makes of a
logarithm what its cosines are worth.

Ours, beyond the paper. A first-order Markov chain beside a factorisation is FPMC's idea (Rendle et
al., WWW 2010), of several orders Fossil's (He and McAuley, ICDM 2016); both learn the chain's
factors with the rest, where here it stays a table of counts.

N items, n pairs kept, U users, L events of a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.sparse import coo_array, csr_array

from hymirec.inputs import IndexedHistory


class TransitionConfig(BaseModel):
    """Settings; how much transitions weigh is not one of them but chosen on validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_weight: NonNegativeFloat = 1.0
    """The largest weight tried, at 1 a share's logarithm counts as the model's own; 0 leaves
    transitions out, which is the paper."""
    num_weights: PositiveInt = 5
    """Weights above 0 that are tried, evenly apart; 0 always is."""
    num_last: PositiveInt = 10
    """Last items of a user that are asked what follows them."""
    decay: float = Field(0.8, gt=0, le=1)
    """Weight of a last item in that of the one after it."""
    max_gap: PositiveInt = 3
    """An item follows another up to so many events later, counting as one over their number."""
    smoothing: NonNegativeFloat = 50.0
    """Added to what an item's followers come to together: of few counts little is believed."""
    floor: PositiveFloat = 1e-3
    """A share next to nothing."""
    num_neighbours: PositiveInt = 500
    """Followers kept of each item, the most frequent."""

    @property
    def weights(self) -> list[float]:
        """All that are tried, from 0."""
        if not self.max_weight:
            return [0.0]
        return np.linspace(0, self.max_weight, self.num_weights + 1).round(9).tolist()


class Lift(NamedTuple):
    """What is added to the cosines of some items, for one user; to all others nothing is.

    `items`: int [n], each once, ascending. `values`: float32 [n], above zero.
    """

    items: NDArray[np.integer]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Transitions:
    """The table of a model.

    Attributes:
        shares: float32 [N + 1, N + 1], sparse: R above, of each row the largest.
        settings: it was made by.
        scale: weight · τ, what the logarithm is multiplied by.
    """

    shares: csr_array
    settings: TransitionConfig
    scale: float = 0.0

    @classmethod
    def count(
        cls, histories: Sequence[IndexedHistory], num_items: int, settings: TransitionConfig
    ) -> Transitions:
        """Count what follows what.

        Memory grows with the events and, where they are many, with N · `num_neighbours`.

        Args:
            histories: the training part of all users; nothing else enters.
            num_items: N.
            settings: see there.
        """
        counts = _counts(histories, num_items, settings.max_gap)
        rows = np.repeat(np.arange(num_items + 1), np.diff(counts.indptr))
        shares = counts.data / (np.asarray(counts.sum(axis=1)) + settings.smoothing)[rows]
        kept = _largest(counts.indptr, counts.indices, shares, settings.num_neighbours)
        table = coo_array(
            (shares[kept].astype(np.float32), (rows[kept], counts.indices[kept])), counts.shape
        )
        return cls(table.tocsr(), settings)

    def scaled(self, scale: float) -> Transitions:
        """The same table, counting for this much."""
        return replace(self, scale=scale)

    def for_items(self, num_items: int) -> Transitions:
        """The same for a catalogue that goes on behind these items, of which nothing is known.

        Args:
            num_items: N, at least what it was.
        """
        more = num_items + 1 - self.shares.shape[0]
        if not more:
            return self
        table = self.shares
        indptr = np.pad(table.indptr, (0, more), mode="edge")
        size = (num_items + 1, num_items + 1)
        return replace(self, shares=csr_array((table.data, table.indices, indptr), shape=size))

    def lifts(self, users: Sequence[NDArray[np.int64]]) -> csr_array:
        """What is added to cosines, float32 [U, N + 1].

        Args:
            users: int64 [L] of each, item indices, the latest last.
        """
        last = [items[-self.settings.num_last :][::-1] for items in users]
        ends = np.cumsum([0, *map(len, last)])
        decays = np.float32(self.settings.decay) ** np.arange(self.settings.num_last)
        weights = [decays[: len(items)] for items in last]
        asked = csr_array(
            (np.concatenate(weights).astype(np.float32), np.concatenate(last), ends),
            shape=(len(users), self.shares.shape[0]),
        )
        found = asked @ self.shares
        found.sort_indices()
        found.data = self.scale * np.log1p(found.data / np.float32(self.settings.floor))
        return found

    def lift(self, items: NDArray[np.int64]) -> Lift:
        """The same for one user, int64 [L]."""
        found = self.lifts([items])
        return Lift(found.indices, found.data)

    def save(self, path: Path) -> None:
        """Write one file of safetensors: the table, and the settings beside it."""
        save_file(
            {
                "starts": self.shares.indptr,
                "items": self.shares.indices,
                "shares": self.shares.data,
            },
            path,
            metadata={"settings": self.settings.model_dump_json(), "scale": repr(self.scale)},
        )

    @classmethod
    def load(cls, path: Path) -> Transitions:
        """Read what `save` wrote.

        Raises:
            SafetensorError, ValueError, TypeError: it is damaged.
        """
        with safe_open(path, framework="numpy") as file:
            said = file.metadata()
            starts, items, shares = map(file.get_tensor, ("starts", "items", "shares"))
        size = len(starts) - 1
        return cls(
            csr_array((shares, items, starts), shape=(size, size)),
            TransitionConfig.model_validate_json(said["settings"]),
            float(said["scale"]),
        )


def _counts(histories: Sequence[IndexedHistory], num_items: int, max_gap: int) -> csr_array:
    """M, float64 [N + 1, N + 1]."""
    size = (num_items + 1, num_items + 1)
    items = np.concatenate([history.items for history in histories])
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    counts = csr_array(size)
    for gap in range(1, max_gap + 1):
        together = users[:-gap] == users[gap:]
        before, after = items[:-gap][together], items[gap:][together]
        counts = counts + coo_array((np.full(len(before), 1 / gap), (before, after)), size).tocsr()
    return counts


def _largest(
    starts: NDArray[np.integer], items: NDArray[np.integer], shares: NDArray[np.float64], most: int
) -> NDArray[np.bool_]:
    """Which entries of a sparse table to keep: of each row so many, of equals the first items."""
    kept = np.ones(len(items), dtype=bool)
    lengths = np.diff(starts)
    long = np.flatnonzero(lengths > most)
    rows = np.repeat(np.arange(len(long)), lengths[long])
    begins = np.cumsum(lengths[long]) - lengths[long]
    place = np.arange(len(rows)) - begins[rows]  # in its row
    entries = starts[long][rows] + place
    order = np.lexsort((items[entries], -shares[entries], rows))
    kept[entries[order[place >= most]]] = False
    return kept
