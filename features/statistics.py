"""Item statistics: how often, by how many and when items were taken, for cold start and filters.

The same under every codebook, so there is one view of them; whoever publishes last has counted
last, and says when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from features.logs.event_log import CLICK, Event, EventLog
from features.offline import (
    COUNTED_AT,
    CREATED,
    EVENT_TIMESTAMP,
    FIRST_SEEN,
    LAST_SEEN,
    NUM_USERS,
    POPULARITY,
)
from hymirec.errors import DataError
from hymirec.inputs import seconds
from hymirec.long_work import lines
from hymirec.schema import ITEM_ID, TIMESTAMP, USER_ID

SECOND, _REPEAT = "second", "repeat"


@dataclass(frozen=True)
class ItemStatistics:
    """What is counted of one item.

    Attributes:
        popularity: events of the item.
        num_users: users with such an event.
        first_seen: its first event, seconds since 1970 UTC.
        last_seen: its last event, likewise.
        counted_at: when this was counted, likewise; the age counts from here.
    """

    popularity: int
    num_users: int
    first_seen: int
    last_seen: int
    counted_at: int


def count_items(
    interactions: pd.DataFrame, clicks: Iterable[Event], counted_at: datetime
) -> pd.DataFrame:
    """Count the events of data and log together, what is in both once.

    Args:
        interactions: canonical interactions (`hymirec.datasets.base.Dataset`).
        clicks: of the event log. Of a user, an item and a second the larger of the two counts
            holds, as in histories (`features.updates.with_clicks`).
        counted_at: the present time, with its zone.

    Returns:
        One row for each item with an event, in alphabetical order; columns as
        `features.offline.STATISTICS_SCHEMA`.

    Raises:
        DataError: there are no events, or the present time has no zone.
    """
    if counted_at.tzinfo is None:
        raise DataError(f"item statistics: time {counted_at} has no time zone")
    published = interactions[[USER_ID, ITEM_ID]].assign(
        **{SECOND: seconds(interactions[TIMESTAMP])}
    )
    logged = pd.DataFrame(
        [(click.user_id, click.item_id, click.time) for click in clicks],
        columns=[USER_ID, ITEM_ID, SECOND],
    )
    events = united(published, logged) if len(logged) else published
    if events.empty:
        raise DataError("item statistics: there are no events")
    by_item = events.groupby(ITEM_ID, sort=True)
    counted = by_item.agg(
        **{
            POPULARITY: (SECOND, "size"),
            NUM_USERS: (USER_ID, "nunique"),
            FIRST_SEEN: (SECOND, "min"),
            LAST_SEEN: (SECOND, "max"),
        }
    ).reset_index()
    now = pd.Timestamp(counted_at).tz_convert("UTC")
    counted[COUNTED_AT] = np.int64(counted_at.timestamp())
    counted[EVENT_TIMESTAMP] = now
    counted[CREATED] = now
    return counted


def logged_clicks(event_log: EventLog) -> Iterator[Event]:
    """All clicks of a log, in the order they came."""
    position, end, tell = 0, event_log.end, lines("event log", "events read")
    while events := event_log.after(position):
        yield from (one.event for one in events if one.event.kind == CLICK)
        position = events[-1].position
        tell(position, max(position, end))


def united(published: pd.DataFrame, logged: pd.DataFrame) -> pd.DataFrame:
    """Take the n-th event of a user, an item and a second once, from the first table that has it.

    So of each the larger of the two counts holds, as in histories (`features.updates.with_clicks`).
    """
    key = [USER_ID, ITEM_ID, SECOND]
    numbered = [
        part.assign(**{_REPEAT: part.groupby(key).cumcount()}) for part in (published, logged)
    ]
    return pd.concat(numbered, ignore_index=True).drop_duplicates([*key, _REPEAT])
