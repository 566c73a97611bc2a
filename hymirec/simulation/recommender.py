"""A recommender that is as good as it is told to be, for it knows what users wish.

At each place of a list it takes an item of a topic the user wishes for, with the chance that is its
skill, and of any topic otherwise. So two of them differ by a lift that can be told beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hymirec.abtest.assignment import place
from hymirec.errors import HymirecError
from hymirec.query import Query
from hymirec.schema import QUERY, USER_ID
from hymirec.simulation.crowd import Crowd

CROWD, SKILL = "crowd.npz", "skill.json"
MOST_ITEMS = 30
"""Of a list."""


@dataclass(frozen=True)
class Skill:
    """How good a recommender is.

    Attributes:
        seed: another one, other lists of the same worth.
        skill: chance that a place is filled by what the user wishes, 0 to 1.
        fails: share of users it cannot answer.
    """

    seed: int
    skill: float
    fails: float = 0.0


class SimulatedRecommender:
    """Lists of one skill for one crowd; the same user gets the same list every time."""

    def __init__(self, crowd: Crowd, skill: Skill) -> None:
        """Say whom it serves and how well."""
        self.crowd = crowd
        self.skill = skill
        self._numbers = {user: number for number, user in enumerate(crowd.user_ids.tolist())}
        self._members = [
            np.flatnonzero(crowd.topics == topic) for topic in range(crowd.wishes.shape[1])
        ]
        self._cumulative = np.cumsum(crowd.wishes, axis=1)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""
        skill = Skill(**json.loads((directory / SKILL).read_text()))
        return cls(Crowd.load(directory / CROWD), skill)

    def save(self, directory: Path) -> None:
        """Write it into a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        self.crowd.save(directory / CROWD)
        (directory / SKILL).write_text(json.dumps(asdict(self.skill)))

    def items(self, user: int, k: int) -> NDArray[np.int64]:
        """Numbers of the items a user is shown, int64 [k], each once."""
        rng = np.random.default_rng([self.skill.seed, user])
        draws = rng.random((4 * MOST_ITEMS, 3))
        num_topics = len(self._members)
        # Rounding may leave the last sum below 1, and a draw above it.
        wished = np.minimum(np.searchsorted(self._cumulative[user], draws[:, 1]), num_topics - 1)
        any_topic = (draws[:, 1] * num_topics).astype(np.int64)
        topics = np.where(draws[:, 0] < self.skill.skill, wished, any_topic)
        found: dict[int, None] = {}
        for topic, draw in zip(topics.tolist(), draws[:, 2].tolist(), strict=True):
            members = self._members[topic]
            found.setdefault(int(members[int(draw * len(members))]))
            if len(found) == k:
                break
        return np.fromiter(found, dtype=np.int64)

    def popular(self, k: int) -> NDArray[np.int64]:
        """What is shown to somebody unknown, int64 [k]."""
        return np.arange(min(k, len(self.crowd.item_ids)))

    def recommend(self, user_id: str, k: int) -> list[dict[str, Any]]:
        """A list as a served model gives it.

        Raises:
            HymirecError: this is one of the users it fails.
        """
        number = self._numbers.get(user_id)
        if number is None:
            return [self._item(item, 0.0, 0) for item in self.popular(min(k, MOST_ITEMS)).tolist()]
        if place(user_id, f"fails:{self.skill.seed}:") < self.skill.fails:
            raise HymirecError("injected: this version cannot answer this user")
        wishes = self.crowd.wishes[number]
        rank = np.where(wishes > 0, np.argsort(np.argsort(-wishes)) + 1, 0).tolist()
        return [
            self._item(item, float(wishes[self.crowd.topics[item]]), rank[self.crowd.topics[item]])
            for item in self.items(number, min(k, MOST_ITEMS)).tolist()
        ]

    def true_worth(self, k: int) -> float:
        """Clicks for each item shown, in the mean over all users, were all shown its lists."""
        users = np.arange(len(self.crowd.user_ids))
        lists = np.stack([self.items(user, k) for user in users.tolist()])
        return float(self.crowd.chances(users, lists).mean())

    def _item(self, item: int, score: float, interest: int) -> dict[str, Any]:
        return {
            "item_id": str(self.crowd.item_ids[item]),
            "title": str(self.crowd.titles[item]),
            "score": score,
            "interest": interest,
            "categories": [f"topic {self.crowd.topics[item]}"],
        }


def answers(
    recommender: SimulatedRecommender, rows: Sequence[dict[str, Any]], marks: dict[str, str]
) -> list[dict[str, Any]]:
    """Answer as `serving.model.HyMiRecModel.predict` does.

    Args:
        recommender: whose lists these are.
        rows: `user_id` and `query` of each request, as a model server gets them.
        marks: `model_version`, `run_id` and `codebook_id` of the version.

    Raises:
        HymirecError: one of the users is one it fails.
    """
    return [
        {
            "user_id": user_id,
            "served_by": "full" if user_id else "popular",
            "feature_age_seconds": 60.0 if user_id else None,
            "degraded": None,
            "recommendations": recommender.recommend(user_id, k),
            "stage_seconds": {"features": 0.0, "model": 0.0, "search": 0.0},
            **marks,
        }
        for user_id, k in map(_asked, rows)
    ]


def _asked(row: dict[str, Any]) -> tuple[str, int]:
    query = row.get(QUERY)
    return str(row[USER_ID]), Query.model_validate_json(query).k if query else Query().k
