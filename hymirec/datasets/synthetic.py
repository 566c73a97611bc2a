"""The built-in world: a small catalogue and its users, whose interests are known.

Every item belongs to one topic and has a place on that topic's ring. A user has two to four
long-term interests and, late in the history, one more that grows. The user follows one interest
for a few events, then another; within a topic each next item lies a little ahead of the last one
the user took there. So the next item is foretold by the last items of *each* interest, not by
popularity; and because the places are told by the words of the titles, text helps too.

The truth is kept beside the data, so that a model's interests can be compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hymirec.datasets.base import Dataset
from hymirec.datasets.behaviour import Histories, live
from hymirec.datasets.canonical import write_frame
from hymirec.datasets.columns import TEXT
from hymirec.datasets.vocabulary import ASIDES, KINDS, TITLE_FORMS, TOPICS
from hymirec.schema import ITEM_ID, SOURCE_ROW, TIMESTAMP, TITLE, USER_ID

LONG_TERM = "long_term"
DRIFT = "drift"

_MIN_ITEMS_PER_TOPIC = 10


class WorldConfig(BaseModel):
    """Size and habits of a world; one config makes one world.

    Attributes:
        mean_history: events of the average user; few users have far more.
        persistence: chance that the next event stays with the interest of the last one.
        drift_share: the last part of a history in which the new interest appears.
        drift_peak: chance, at the very end, that a change of interest is to the new one.
        exploration: share of events on a topic that is none of the user's interests in particular.
        step_width: spread, in places on the ring, of the step from one item to the next.
        popularity_exponent: Zipf exponent of the items' popularity within a topic.
        repeat_weight: what one earlier event with an item does to its chance to be taken again.
        text_noise: chance that an item's genre or description borrows from another topic.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)
    num_users: int = Field(default=600, ge=2)
    num_items: int = Field(default=2000, ge=1)
    num_topics: int = Field(default=20, ge=6, le=len(TOPICS))
    min_history: int = Field(default=50, ge=3)
    mean_history: float = Field(default=150, ge=3)
    max_history: int = Field(default=1000, ge=3)
    min_interests: int = Field(default=2, ge=1)
    max_interests: int = Field(default=4, ge=1, le=4)
    persistence: float = Field(default=0.6, ge=0, lt=1)
    drift_share: float = Field(default=0.3, gt=0, le=1)
    drift_peak: float = Field(default=0.7, ge=0, le=1)
    exploration: float = Field(default=0.04, ge=0, le=1)
    step_width: float = Field(default=2.5, gt=0)
    popularity_exponent: float = Field(default=0.7, ge=0)
    repeat_weight: float = Field(default=0.001, gt=0, le=1)
    text_noise: float = Field(default=0.15, ge=0, le=1)

    @model_validator(mode="after")
    def _check_order(self) -> WorldConfig:
        if not self.min_history <= self.mean_history <= self.max_history:
            raise ValueError("min_history <= mean_history <= max_history does not hold")
        if self.min_interests > self.max_interests:
            raise ValueError("min_interests is above max_interests")
        if self.num_items < _MIN_ITEMS_PER_TOPIC * self.num_topics:
            raise ValueError(f"num_items is below {_MIN_ITEMS_PER_TOPIC} for each of num_topics")
        return self

    @classmethod
    def tiny(cls, seed: int = 0) -> WorldConfig:
        """A world for tests: seconds to learn, the same structure."""
        return cls(
            seed=seed,
            num_users=120,
            num_items=300,
            num_topics=8,
            min_history=50,
            mean_history=80,
            max_history=150,
        )


@dataclass(frozen=True)
class World:
    """A data set and what is true about it. Topics are numbers into `topic_names`.

    Attributes:
        dataset: what a model may see.
        topic_names: [number of topics].
        interests: user_id, topic, weight, kind. The weights of a user's 'long_term' interests sum
            to 1; that of the 'drift' interest is its share of choices at the end of the history.
        event_topics: int64 [events], aligned with the interactions.
        item_topics: int64 [items], aligned with the items.
    """

    dataset: Dataset
    topic_names: tuple[str, ...]
    interests: pd.DataFrame
    event_topics: NDArray[np.int64]
    item_topics: NDArray[np.int64]


def generate(config: WorldConfig) -> World:
    """Make the world of a config: the same one every time."""
    item_rng, user_rng = np.random.default_rng(config.seed).spawn(2)
    # Topics are spread over the ids, so that an id says nothing about its item.
    item_topics = item_rng.permutation(np.arange(config.num_items) % config.num_topics)
    places = _places(item_topics, config.num_topics, item_rng)
    items = _items(config, item_topics, places, item_rng)
    histories = live(config, item_topics, places, user_rng)
    user_ids = _ids("u", config.num_users, digits=4)
    return World(
        dataset=Dataset("synthetic", _interactions(histories, user_ids, items), items),
        topic_names=tuple(topic.name for topic in TOPICS[: config.num_topics]),
        interests=_interests(histories, user_ids, config),
        event_topics=item_topics[histories.items],
        item_topics=item_topics,
    )


def write_world(world: World, directory: Path) -> None:
    """Write a world as a data set that `hymirec.datasets.load` reads, and its truth beside it.

    The files are interactions.parquet and items.parquet, and under truth/ interests.parquet,
    event_topics.parquet, item_topics.parquet and topics.parquet. Each appears whole or not at all,
    and the interactions last, so that a folder that loads is complete.
    """
    truth = directory / "truth"
    items = world.dataset.items.drop(columns=SOURCE_ROW)
    names = pd.Series(list(world.topic_names), dtype=TEXT)
    write_frame(world.interests, truth / "interests.parquet")
    write_frame(pd.DataFrame({"topic": world.event_topics}), truth / "event_topics.parquet")
    write_frame(
        pd.DataFrame({ITEM_ID: items[ITEM_ID], "topic": world.item_topics}),
        truth / "item_topics.parquet",
    )
    write_frame(
        pd.DataFrame({"topic": np.arange(len(names)), "name": names}), truth / "topics.parquet"
    )
    write_frame(items, directory / "items.parquet")
    interactions = world.dataset.interactions.drop(columns=SOURCE_ROW)
    write_frame(interactions, directory / "interactions.parquet")


def _places(
    item_topics: NDArray[np.int64], num_topics: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Give every item its place on its topic's ring: 0 .. items of that topic - 1."""
    places = np.zeros(len(item_topics), dtype=np.int64)
    for topic in range(num_topics):
        members = np.flatnonzero(item_topics == topic)
        places[members] = rng.permutation(len(members))
    return places


def _ids(prefix: str, count: int, digits: int) -> pd.Series:
    digits = max(digits, len(str(count)))
    return pd.Series([f"{prefix}{n:0{digits}d}" for n in range(1, count + 1)], dtype=TEXT)


def _items(
    config: WorldConfig,
    item_topics: NDArray[np.int64],
    places: NDArray[np.int64],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Write title, genre and description of every item; neighbours on a ring share a noun."""
    sizes = np.bincount(item_topics, minlength=config.num_topics)
    titles, genres, descriptions = [], [], []
    used: dict[tuple[int, int], int] = {}
    for topic_number, place in zip(item_topics.tolist(), places.tolist(), strict=True):
        topic = TOPICS[topic_number]
        noun_number = place * len(topic.nouns) // int(sizes[topic_number])
        count = used.get((topic_number, noun_number), 0)
        used[topic_number, noun_number] = count + 1
        titles.append(_title(topic_number, noun_number, count))
        other = TOPICS[(topic_number + int(rng.integers(1, config.num_topics))) % config.num_topics]
        borrows = rng.random(2) < config.text_noise
        first, second = rng.permutation(len(topic.genres))[:2]
        extra_genre = other.genres[0] if borrows[0] else topic.genres[second]
        genres.append(f"{topic.genres[first]}, {extra_genre}")
        neighbour = topic.nouns[(noun_number + 1) % len(topic.nouns)]
        guest = str(rng.choice(other.nouns)) if borrows[1] else neighbour
        descriptions.append(
            f"The {rng.choice(topic.modifiers).lower()} {rng.choice(KINDS)} of the "
            f"{topic.nouns[noun_number].lower()} and the {guest.lower()}, "
            f"{rng.choice(topic.moods)}, {rng.choice(ASIDES)}."
        )
    return pd.DataFrame(
        {
            ITEM_ID: _ids("i", config.num_items, digits=5),
            TITLE: pd.Series(titles, dtype=TEXT),
            SOURCE_ROW: np.arange(1, config.num_items + 1),
            "genre": pd.Series(genres, dtype=TEXT),
            "description": pd.Series(descriptions, dtype=TEXT),
        }
    )


def _title(topic_number: int, noun_number: int, count: int) -> str:
    """The title number `count` on one noun; all of them differ."""
    topic = TOPICS[topic_number]
    # Their numbers have no common divisor, so stepping both meets every pair before repeating.
    num_pairs = len(topic.modifiers) * len(TITLE_FORMS)
    modifier = topic.modifiers[(count + noun_number) % len(topic.modifiers)]
    form = TITLE_FORMS[count % len(TITLE_FORMS)]
    title = form.format(modifier=modifier, noun=topic.nouns[noun_number])
    volume = count // num_pairs + 1
    return title if volume == 1 else f"{title}, Volume {volume}"


def _interactions(histories: Histories, user_ids: pd.Series, items: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            USER_ID: user_ids.take(histories.users).reset_index(drop=True),
            ITEM_ID: items[ITEM_ID].take(histories.items).reset_index(drop=True),
            TIMESTAMP: pd.to_datetime(histories.times_seconds, unit="s", utc=True).as_unit("ns"),
            SOURCE_ROW: np.arange(1, len(histories.users) + 1),
        }
    )


def _interests(histories: Histories, user_ids: pd.Series, config: WorldConfig) -> pd.DataFrame:
    """List long-term interests and the drift, one row each, in order of user."""
    weights = np.column_stack(
        [histories.interest_weights, np.full(len(user_ids), config.drift_peak)]
    )
    users, slots = np.nonzero(weights > 0)
    kinds = np.where(slots == weights.shape[1] - 1, DRIFT, LONG_TERM)
    return pd.DataFrame(
        {
            USER_ID: user_ids.take(users).reset_index(drop=True),
            "topic": histories.interest_topics[users, slots],
            "weight": weights[users, slots],
            "kind": pd.Series(kinds, dtype=TEXT),
        }
    )
