"""What comes now, beside the baseline: one number a metric, or why there is none yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from features.logs.event_log import CLICK, Event, EventLog
from features.offline import EVENT_TIMESTAMP
from features.online import FeatureReader
from features.training_sets import TrainingSet, training_set
from features.updates import CONSUMER
from flows.catalogue.coding import cosine_error
from flows.monitoring.baseline import (
    LIST_LENGTH,
    Baseline,
    best_scores,
    count_words,
    listed_items,
)
from flows.monitoring.settings import MonitorConfig
from hymirec.additions import Additions
from hymirec.batch import recommend_many
from hymirec.drift import NUM_BINS, entries_in_use, largest_gap, population_stability
from hymirec.home import Home
from hymirec.package import RecommenderPackage
from hymirec.schema import ITEM_ID, USER_ID

_EVENTS_AT_ONCE = 1000
_EMPTY = 1e-6
"""Cosine error below which training's is taken for none."""


@dataclass
class Measured:
    """Values by metric, and by metric why there is none."""

    values: dict[str, float] = field(default_factory=dict)
    not_judged: dict[str, str] = field(default_factory=dict)

    def missing(self, metrics: Sequence[str], reason: str) -> None:
        """Note that some cannot be judged."""
        self.not_judged |= dict.fromkeys(metrics, reason)


def measure(
    home: Home, package: RecommenderPackage, additions: Additions | None, baseline: Baseline,
    config: MonitorConfig, now: datetime,
) -> Measured:  # fmt: skip
    """Measure everything but trends.

    Args:
        home: whose log, rows and histories are looked at.
        package: of the version, with the items published since.
        additions: those items.
        baseline: of the version.
        config: how much is looked at.
        now: the present time.
    """
    found = Measured()
    event_log = EventLog(home)
    try:
        events = _newest(event_log, config.window_events, baseline.trained_until)
        waiting = event_log.after(event_log.offset(CONSUMER), 1)
    finally:
        event_log.close()
    clicks = [one for one in events if one.kind == CLICK]
    _measure_traffic(found, home, package, baseline, clicks, config)
    _measure_click_through(found, events, config)
    _measure_items(found, package, additions, baseline, config)
    lag = now.timestamp() - waiting[0].received_at if waiting else 0.0
    found.values["features/lag_seconds"] = max(0.0, lag)
    _measure_users(found, home, package, baseline, now)
    return found


def _newest(event_log: EventLog, limit: int, after: int) -> list[Event]:
    """The newest events of a log, those with a time after a second."""
    found: list[Event] = []
    position = max(0, event_log.end - limit)
    while events := event_log.after(position, _EVENTS_AT_ONCE):
        found += [one.event for one in events if one.event.time > after]
        position = events[-1].position
    return found


TRAFFIC = (
    "data/popularity_psi", "data/unknown_share", "data/history_length_ks", "embedding/axis_ks",
    "codes/in_use_ratio", "served/hit_rate", "served/hit_rate_ratio",
)  # fmt: skip


def _measure_traffic(
    found: Measured, home: Home, package: RecommenderPackage, baseline: Baseline,
    clicks: Sequence[Event], config: MonitorConfig,
) -> None:  # fmt: skip
    """Clicks since training beside training's last ones."""
    if len(clicks) < config.min_events:
        reason = f"{len(clicks)} clicks since training, {config.min_events} are needed"
        found.missing(TRAFFIC, reason)
        return
    items = np.array([package.item_index.get(one.item_id, 0) for one in clicks])
    known = items[items != 0]
    old, new = (_by_band(baseline.bands, some) for some in (baseline.items, known))
    found.values["data/popularity_psi"] = population_stability(old, new)
    found.values["data/unknown_share"] = float((items == 0).mean())
    # As of the second before, so that a click is not in its own history.
    asked = pd.DataFrame(
        {
            USER_ID: [one.user_id for one in clicks],
            ITEM_ID: items,
            EVENT_TIMESTAMP: pd.to_datetime([one.time - 1 for one in clicks], unit="s", utc=True),
        }
    )
    before = training_set(home, package.info.codebook_id, asked)
    lengths = [min(len(one), package.model.max_history) for one in before.histories.values()]
    found.values["data/history_length_ks"] = largest_gap(baseline.lengths, lengths)
    _measure_hits(found, package, baseline, before, config)
    if len(known):
        _measure_vectors(found, package, baseline, known)
    else:
        found.missing(("embedding/axis_ks", "codes/in_use_ratio"), "no click on a known item")


def _measure_vectors(
    found: Measured, package: RecommenderPackage, baseline: Baseline, known: NDArray[np.int64]
) -> None:
    """Vectors and codes of the items that are clicked."""
    vectors = package.model.item_vectors().numpy()
    old, new = (
        (vectors[items] - baseline.center) @ baseline.axes.T for items in (baseline.items, known)
    )
    found.values["embedding/axis_ks"] = max(
        largest_gap(*axis) for axis in zip(old.T, new.T, strict=True)
    )
    # Samples of one size, for a smaller one uses fewer entries.
    size = min(len(known), len(baseline.items))
    book = package.model.codebook
    in_use = []
    for items in (baseline.items, known):
        spread = items[np.linspace(0, len(items) - 1, size).astype(int)]
        indices = book.indices(book.encode(torch.from_numpy(vectors[spread]))).numpy()
        in_use.append([entries_in_use(layer, book.num_entries) for layer in indices.T])
    found.values["codes/in_use_ratio"] = float(np.min(np.divide(in_use[1], in_use[0])))


def _measure_hits(
    found: Measured, package: RecommenderPackage, baseline: Baseline, before: TrainingSet,
    config: MonitorConfig,
) -> None:  # fmt: skip
    """Whether what was clicked would have been recommended a moment before, seen items apart."""
    places = np.linspace(0, len(before) - 1, min(config.sample_clicks, len(before))).astype(int)
    targets = before.rows[ITEM_ID].to_numpy()
    histories = [before.history(int(place)) for place in places]
    index = package.item_index
    asked = [
        (history, targets[place])
        for place, history in zip(places, histories, strict=True)
        if targets[place]
        and targets[place]
        not in {index.get(item) for item in (history.item_ids if history else ())}
    ]
    if not asked:
        found.missing(("served/hit_rate", "served/hit_rate_ratio"), "no click on an unseen item")
        return
    lists = recommend_many(package, [history for history, _ in asked], LIST_LENGTH)
    hits = (lists.items == np.array([target for _, target in asked])[:, None]).any(axis=1)
    found.values["served/hit_rate"] = float(hits.mean())
    if baseline.recall > 0:
        found.values["served/hit_rate_ratio"] = float(hits.mean()) / baseline.recall
    else:
        found.missing(("served/hit_rate_ratio",), "R@10 at training was 0")


def _measure_click_through(found: Measured, events: Sequence[Event], config: MonitorConfig) -> None:
    shown: dict[tuple[str, str], int] = {}
    for one in events:
        if one.kind == "impression":
            key = one.user_id, one.item_id
            shown[key] = min(one.time, shown.get(key, one.time))
    if len(shown) < config.min_events:
        reason = f"{len(shown)} impressions since training, {config.min_events} are needed"
        found.missing(("served/click_through",), reason)
        return
    taken = {
        (one.user_id, one.item_id)
        for one in events
        if one.kind == CLICK and one.time >= shown.get((one.user_id, one.item_id), one.time + 1)
    }
    found.values["served/click_through"] = len(taken) / len(shown)


def _measure_items(
    found: Measured, package: RecommenderPackage, additions: Additions | None,
    baseline: Baseline, config: MonitorConfig,
) -> None:  # fmt: skip
    """Items published since training beside the catalogue then."""
    metrics = ("data/text_length_ks", "embedding/codebook_error_ratio")
    number = 0 if additions is None else len(additions)
    if additions is None or number < config.min_items:
        reason = f"{number} items published since training, {config.min_items} are needed"
        found.missing(metrics, reason)
        return
    found.values[metrics[0]] = largest_gap(baseline.words, count_words(additions.texts))
    book = package.model.codebook
    trained = package.model.item_vectors()[1 : len(baseline.bands)]
    then = cosine_error(book, trained, book.encode(trained))
    vectors = torch.from_numpy(additions.vectors)
    now = cosine_error(book, vectors, torch.from_numpy(additions.codes))
    found.values[metrics[1]] = now / max(then, _EMPTY)


def _measure_users(
    found: Measured, home: Home, package: RecommenderPackage, baseline: Baseline, now: datetime
) -> None:
    """Rows of some users, and what they would be recommended now."""
    rows = FeatureReader(home, package.info.codebook_id).read_users(baseline.users)
    metrics = (
        "features/age_p95_hours", "predictions/popularity_psi", "predictions/score_ks",
        "predictions/coverage_ratio",
    )  # fmt: skip
    if not rows:
        found.missing(metrics, "none of the sampled users has a row online")
        return
    ages = [row.age_seconds(now) for row in rows.values()]
    found.values["features/age_p95_hours"] = max(0.0, float(np.quantile(ages, 0.95))) / 3600
    histories = [rows[user].history if user in rows else None for user in baseline.users]
    lists = recommend_many(package, histories, LIST_LENGTH)
    then, current = listed_items(baseline.listed), listed_items(lists.items)
    old, new = (_by_band(baseline.bands, some) for some in (then, current))
    found.values["predictions/popularity_psi"] = population_stability(old, new)
    found.values["predictions/score_ks"] = largest_gap(baseline.best_scores, best_scores(lists))
    found.values["predictions/coverage_ratio"] = len(np.unique(current)) / len(np.unique(then))


def _by_band(bands: NDArray[np.int8], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count items by band of popularity; those that came later are with those without events."""
    known = items[items < len(bands)]
    counts = np.bincount(bands[known], minlength=NUM_BINS + 1)
    counts[NUM_BINS] += len(items) - len(known)
    return counts
