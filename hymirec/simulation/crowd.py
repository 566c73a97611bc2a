"""Users of the built-in world as they meet lists: how likely each is to click what.

The chance to click an item is the user's eagerness times how much of the user's choices are of the
item's topic (`hymirec.datasets.synthetic` planted that), less from place to place. Users differ far
more in eagerness than in anything a recommender can change, as people do.

Letters in shapes: U users, N items, K topics, B users asked about, L places of a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hymirec.datasets.synthetic import DRIFT, World, WorldConfig, generate
from hymirec.schema import ITEM_ID, TITLE, USER_ID

FLOOR, SLOPE = 0.02, 0.5
"""Chance of the average user to click at the first place: of any item, and more by interest."""
PATIENCE = 0.95
"""Of it what is left from one place to the next."""
UNEVENNESS = 1.2
"""Standard deviation of the logarithm of eagerness."""
MOST = 0.9
"""No click is surer."""


@dataclass(frozen=True)
class Crowd:
    """Users and items, and what is true of both.

    Attributes:
        user_ids: text [U].
        wishes: float64 [U, K], share of a user's choices by topic; rows add up to 1.
        eagerness: float64 [U], 1 on the average.
        item_ids: text [N].
        titles: text [N].
        topics: int64 [N].
    """

    user_ids: NDArray[np.str_]
    wishes: NDArray[np.float64]
    eagerness: NDArray[np.float64]
    item_ids: NDArray[np.str_]
    titles: NDArray[np.str_]
    topics: NDArray[np.int64]

    @classmethod
    def of(cls, world: World, seed: int, unevenness: float = UNEVENNESS) -> Self:
        """The crowd of a world; `seed` decides who is eager, `unevenness` how much they differ."""
        user_ids = world.dataset.interactions[USER_ID].drop_duplicates().to_numpy(dtype=str)
        place = {user: number for number, user in enumerate(user_ids)}
        found = world.interests
        users = found[USER_ID].map(place).to_numpy(dtype=np.int64)
        weights = found["weight"].to_numpy(dtype=np.float64)
        is_drift = (found["kind"] == DRIFT).to_numpy()
        newest = np.zeros(len(user_ids))
        newest[users[is_drift]] = weights[is_drift]
        wishes = np.zeros((len(user_ids), len(world.topic_names)))
        share = np.where(is_drift, weights, weights * (1 - newest[users]))
        np.add.at(wishes, (users, found["topic"].to_numpy(dtype=np.int64)), share)
        eagerness = np.random.default_rng(seed).lognormal(
            -(unevenness**2) / 2, unevenness, len(user_ids)
        )
        items = world.dataset.items
        return cls(
            user_ids, wishes, eagerness, items[ITEM_ID].to_numpy(dtype=str),
            items[TITLE].to_numpy(dtype=str), world.item_topics,
        )  # fmt: skip

    @classmethod
    def make(cls, num_users: int, seed: int = 0, unevenness: float = UNEVENNESS) -> Self:
        """The crowd of a world of some size; histories are short, for nobody learns from them."""
        config = WorldConfig(
            seed=seed, num_users=num_users, num_items=600, num_topics=12, min_history=3,
            mean_history=4, max_history=8,
        )  # fmt: skip
        return cls.of(generate(config), seed, unevenness)

    def chances(
        self, users: NDArray[np.int64], items: NDArray[np.int64]
    ) -> NDArray[np.float64]:  # fmt: skip
        """How likely users are to click what they are shown.

        Args:
            users: int64 [B], numbers of users.
            items: int64 [B, L], numbers of the items shown, the first place first; -1 where a
                list has ended.

        Returns:
            float64 [B, L]; 0 where a list has ended.
        """
        wished = self.wishes[users[:, None], self.topics[items]]
        place = PATIENCE ** np.arange(items.shape[1])
        chance = self.eagerness[users, None] * (FLOOR + SLOPE * wished) * place
        return np.where(items < 0, 0.0, np.minimum(chance, MOST))

    def save(self, path: Path) -> None:
        """Write it to a file that `load` reads."""
        np.savez_compressed(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as found:
            return cls(**{name: found[name] for name in cls.__dataclass_fields__})
