"""How the users of the built-in world choose: interests, sittings, steps, times.

Letters in shapes: B users of one batch, T events of the longest history in it, K topics, S items
of the largest topic, I slots for interests (the last one is the drift), E events in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hymirec.datasets.synthetic import WorldConfig

_BATCH = 1024
"""Users that live side by side: bounds the memory of large worlds."""

_END_SECONDS = 1_719_792_000  # 2024-07-01 00:00 UTC
_LAST_EVENTS_SECONDS = 14 * 86_400
_STEP_AHEAD = 1
"""Places from one item to the one most likely next."""

_KERNEL_FLOOR = 1e-3
"""Chance of the far side of the ring against that of the best place."""


@dataclass(frozen=True)
class Histories:
    """What all users did, in order of user and time.

    Attributes:
        users: int64 [E], user numbers from 0.
        items: int64 [E], item numbers from 0.
        times_seconds: int64 [E], seconds since 1970 UTC, rising within a user.
        interest_topics: int64 [users, I].
        interest_weights: float64 [users, I - 1], 0 where a user has fewer long-term interests.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times_seconds: NDArray[np.int64]
    interest_topics: NDArray[np.int64]
    interest_weights: NDArray[np.float64]


@dataclass(frozen=True)
class _Rings:
    """Items of each topic in order of place.

    Attributes:
        items: int64 [K, S]; 0 beyond a topic's end, where the popularity is 0 as well.
        sizes: int64 [K].
        popularity: float64 [K, S].
    """

    items: NDArray[np.int64]
    sizes: NDArray[np.int64]
    popularity: NDArray[np.float64]


def live(
    config: WorldConfig,
    item_topics: NDArray[np.int64],
    places: NDArray[np.int64],
    rng: np.random.Generator,
) -> Histories:
    """Let every user of a world choose items.

    Args:
        config: the world's habits.
        item_topics: int64 [items].
        places: int64 [items], each item's place on its topic's ring.
        rng: the only source of chance.
    """
    rings = _rings(config, item_topics, places, rng)
    lengths = _lengths(config, rng)
    topics, weights = _interests(config, lengths, rng)
    parts = []
    starts = range(0, config.num_users, _BATCH)
    for start, batch_rng in zip(starts, rng.spawn(len(starts)), strict=True):
        batch = slice(start, start + _BATCH)
        event_topics, stays = _event_topics(
            config, lengths[batch], topics[batch], weights[batch], batch_rng
        )
        items = _choose(config, rings, lengths[batch], event_topics, len(item_topics), batch_rng)
        times = _times(lengths[batch], stays, batch_rng)
        happened = np.arange(items.shape[1]) < lengths[batch][:, None]
        parts.append((items[happened], times[happened]))
    return Histories(
        users=np.repeat(np.arange(config.num_users), lengths),
        items=np.concatenate([items for items, _ in parts]),
        times_seconds=np.concatenate([times for _, times in parts]),
        interest_topics=topics,
        interest_weights=weights,
    )


def _rings(
    config: WorldConfig,
    item_topics: NDArray[np.int64],
    places: NDArray[np.int64],
    rng: np.random.Generator,
) -> _Rings:
    sizes = np.bincount(item_topics, minlength=config.num_topics)
    items = np.zeros((config.num_topics, sizes.max()), dtype=np.int64)
    items[item_topics, places] = np.arange(len(item_topics))
    popularity = np.zeros(items.shape)
    for topic, size in enumerate(sizes.tolist()):
        ranks = rng.permutation(size) + 1
        popularity[topic, :size] = ranks**-config.popularity_exponent
    return _Rings(items, sizes, popularity)


def _lengths(config: WorldConfig, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw history lengths [users]: the shortest plus a log-normal tail."""
    spread = 1.0
    mean_tail = config.mean_history - config.min_history
    tail = mean_tail * rng.lognormal(-(spread**2) / 2, spread, config.num_users)
    lengths = np.rint(config.min_history + tail).astype(np.int64)
    return np.minimum(lengths, config.max_history)


def _interests(
    config: WorldConfig, lengths: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw each user's topics [users, I] and the weights of the long-term ones [users, I - 1]."""
    num_slots = config.max_interests
    # Topics differ in how many people they interest. Gumbel noise draws without replacement.
    appeal = -0.5 * np.log(rng.permutation(config.num_topics) + 1.0)
    noise = rng.gumbel(size=(config.num_users, config.num_topics))
    topics = np.argsort(-(appeal + noise), axis=1)[:, : num_slots + 1]
    # Who does more is more widely interested: else the longest histories run out of items.
    rank = np.argsort(np.argsort(lengths, kind="stable"), kind="stable") / config.num_users
    breadth = (rank + rng.random(config.num_users)) / 2
    num_counts = num_slots - config.min_interests + 1
    counts = config.min_interests + (breadth * num_counts).astype(np.int64)
    held = np.arange(num_slots) < counts[:, None]
    raw = rng.gamma(2.0, size=held.shape) * held
    # Half the weight is shared evenly, so that every interest is there to be seen.
    weights = 0.5 * raw / raw.sum(axis=1, keepdims=True) + 0.5 * held / counts[:, None]
    return topics, weights


def _event_topics(
    config: WorldConfig,
    lengths: NDArray[np.int64],
    topics: NDArray[np.int64],
    weights: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw every event's topic [B, T], and whether it stays with the last interest [B, T]."""
    num_users, num_events = len(lengths), int(lengths.max())
    shape = (num_users, num_events)
    progress = (np.arange(num_events) + 0.5) / lengths[:, None]
    grown = np.clip((progress - (1 - config.drift_share)) / config.drift_share, 0, 1)
    drifts = rng.random(shape) < config.drift_peak * grown
    cumulative = np.cumsum(weights, axis=1)
    draws = rng.random(shape)
    slots = (draws[:, :, None] > cumulative[:, None, :-1]).sum(axis=2)
    slots[drifts] = topics.shape[1] - 1
    stays = rng.random(shape) < config.persistence
    stays[:, 0] = False
    # An event that stays takes the slot of the last one that did not.
    chosen_at = np.maximum.accumulate(np.where(stays, 0, np.arange(num_events)), axis=1)
    slots = np.take_along_axis(slots, chosen_at, axis=1)
    event_topics = np.take_along_axis(topics, slots, axis=1)
    strays = rng.random(shape) < config.exploration
    event_topics[strays] = rng.integers(0, config.num_topics, int(strays.sum()))
    return event_topics, stays


def _choose(
    config: WorldConfig,
    rings: _Rings,
    lengths: NDArray[np.int64],
    event_topics: NDArray[np.int64],
    num_items: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Choose the item of every event [B, T]; entries past a user's length mean nothing."""
    chosen = np.zeros_like(event_topics)
    # Longest first: those still choosing at any time are the first rows.
    order = np.argsort(-lengths, kind="stable")
    still = np.searchsorted(-lengths[order], -np.arange(event_topics.shape[1]), side="left")
    last_place = np.full((len(lengths), len(rings.sizes)), -1)
    times_taken = np.zeros((len(lengths), num_items), dtype=np.int16)
    places = np.arange(rings.items.shape[1])
    for time in range(event_topics.shape[1]):
        users = order[: still[time]]
        topics = event_topics[users, time]
        sizes = rings.sizes[topics][:, None]
        candidates = rings.items[topics]  # [users, S]
        last = last_place[users, topics][:, None]
        away = np.abs((places - last - _STEP_AHEAD + sizes // 2) % sizes - sizes // 2)
        near = np.exp(-0.5 * (away / config.step_width) ** 2) + _KERNEL_FLOOR
        weights = rings.popularity[topics] * np.where(last < 0, 1.0, near)
        weights *= config.repeat_weight ** times_taken[users[:, None], candidates]
        totals = np.cumsum(weights, axis=1)
        draws = rng.random(len(users)) * totals[:, -1]
        picks = np.minimum((totals <= draws[:, None]).sum(axis=1), sizes[:, 0] - 1)
        items = candidates[np.arange(len(users)), picks]
        chosen[users, time] = items
        last_place[users, topics] = picks
        times_taken[users, items] += 1
    return chosen


def _times(
    lengths: NDArray[np.int64], stays: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw the time of every event [B, T] in seconds, so that all users are active at the end."""
    minutes = rng.lognormal(np.log(300), 0.8, stays.shape)
    days = rng.lognormal(np.log(20 * 3600), 0.8, stays.shape)
    gaps = np.maximum(np.where(stays, minutes, days), 20).astype(np.int64)
    since_first = np.cumsum(gaps, axis=1)
    length_seconds = since_first[np.arange(len(lengths)), lengths - 1]
    last_seconds = _END_SECONDS - rng.integers(0, _LAST_EVENTS_SECONDS, len(lengths))
    return since_first + (last_seconds - length_seconds)[:, None]
