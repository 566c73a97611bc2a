"""The event log: every event that was acknowledged, durable, once, in the order it came.

Everything after the log can be done again from it: rows in the feature store are made of published
histories and of the clicks here (`features.updates`). One table, in a SQLite file of the home by
default, in PostgreSQL by URL.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Float,
    Index,
    MetaData,
    Row,
    String,
    Table,
    Text,
    func,
    select,
)

from features.logs.database import Log, numbered_table

Kind = Literal["click", "impression", "conversion"]
CLICK: Kind = "click"
"""The kind of which histories are made."""

_METADATA = MetaData()
_EVENTS = numbered_table(
    "events",
    _METADATA,
    Column("event_id", String, nullable=False, unique=True),
    Column("user_id", String, nullable=False),
    Column("item_id", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("value", Float),
    Column("context", Text, nullable=False),
    Column("received_at", Float, nullable=False),
    Index("events_of_user", "user_id", "time"),
    Index("events_of_item", "item_id"),
)
_OFFSETS = Table(
    "offsets",
    _METADATA,
    Column("consumer", String, primary_key=True),
    Column("position", BigInteger, nullable=False),
)
_IDS_PER_QUERY = 500


@dataclass(frozen=True)
class Event:
    """Something a user did with an item, or was shown.

    Attributes:
        event_id: the sender's; a second event of the same id is the same event.
        user_id: any text.
        item_id: any text, also of an item that is not known yet.
        kind: clicks become history; the others are kept for measuring.
        time: seconds since 1970 UTC.
        value: what it was worth, such as seconds watched.
        context: more that the sender wants to find again, as JSON values.
    """

    event_id: str
    user_id: str
    item_id: str
    kind: Kind
    time: int
    value: float | None = None
    context: dict[str, Any] = field(default_factory=dict)


class LoggedEvent(NamedTuple):
    """An event, where it stands in the log, and when it came (seconds since 1970 UTC)."""

    position: int
    event: Event
    received_at: float


class Click(NamedTuple):
    """What a click adds to a history, and where it stands in the log."""

    item_id: str
    time: int
    position: int


class EventLog(Log):
    """The log of one home; may be shared by threads and by processes."""

    what, tables = "event log", _METADATA

    def append(self, events: Sequence[Event]) -> int:
        """Add events, all or none; when this returns they are on disk.

        Returns:
            How many were new: an event whose id is there already is passed over.

        Raises:
            HymirecError: the log cannot be written; nothing of the call is in it.
        """
        if not events:
            return 0
        received = time.time()
        rows = [_to_row(one, received) for one in events]
        statement = self._database.insert(_EVENTS).on_conflict_do_nothing(
            index_elements=["event_id"]
        )
        with self._database.naming_it(), self._database.engine.begin() as connection:
            self._database.in_order(connection)
            return len(connection.execute(statement.returning(_EVENTS.c.position), rows).all())

    def after(self, position: int, limit: int = 1000) -> list[LoggedEvent]:
        """Read events that came after a position, in order, at most `limit`."""
        query = select(_EVENTS).where(_EVENTS.c.position > position)
        return self._read(query.order_by(_EVENTS.c.position).limit(limit))

    def clicks_of(
        self, user_ids: Sequence[str], since: Mapping[str, int] | None = None
    ) -> dict[str, list[Click]]:
        """Clicks of users, in order of time and, within a second, of arrival.

        Args:
            user_ids: whose.
            since: of some of them, the second before which they are left out; else all.
        """
        since = since or {}
        whole = [user_id for user_id in user_ids if user_id not in since]
        events = _EVENTS.c
        asked: list[ColumnElement[bool]] = [events.user_id.in_(part) for part in _parts(whole)]
        asked += [
            (events.user_id == user_id) & (events.time >= second)
            for user_id, second in since.items()
        ]
        found: dict[str, list[Click]] = {user_id: [] for user_id in user_ids}
        with self._database.naming_it(), self._database.engine.connect() as connection:
            for which in asked:
                # Not whole events: a busy user's are many, and to make them takes most of the time.
                query = select(events.user_id, events.item_id, events.time, events.position)
                query = query.where(which, events.kind == CLICK)
                for user_id, *click in connection.execute(
                    query.order_by(events.time, events.position)
                ):
                    found[user_id].append(Click(*click))
        return found

    def start_of_latest(self, user_ids: Sequence[str], number: int) -> dict[str, int]:
        """The second from which users have so many clicks; without those who have not."""
        events, found = _EVENTS.c, {}
        with self._database.naming_it(), self._database.engine.connect() as connection:
            for part in _parts(user_ids):
                # The index alone tells who has few events of any kind, as nearly everybody has.
                busy = select(events.user_id).where(events.user_id.in_(part))
                busy = busy.group_by(events.user_id).having(func.count() > number)
                for user_id in connection.scalars(busy).all():
                    times = select(events.time).where(
                        events.user_id == user_id, events.kind == CLICK
                    )
                    last = times.order_by(events.time.desc()).offset(number - 1).limit(1)
                    if (second := connection.scalar(last)) is not None:
                        found[user_id] = second
        return found

    def rows_of(
        self, user_ids: Sequence[str], since: float
    ) -> list[tuple[str, str, str, int, float | None, str]]:
        """Events of any kind of users since a moment, in no order, for tables.

        Args:
            user_ids: whose.
            since: seconds since 1970 UTC.

        Returns:
            user_id, item_id, kind, time, value, and the context as JSON text.
        """
        columns = [getattr(_EVENTS.c, name) for name in
                   ("user_id", "item_id", "kind", "time", "value", "context")]  # fmt: skip
        found: list[tuple[str, str, str, int, float | None, str]] = []
        with self._database.naming_it(), self._database.engine.connect() as connection:
            for part in _parts(user_ids):
                query = select(*columns).where(
                    _EVENTS.c.user_id.in_(part), _EVENTS.c.time >= int(since)
                )
                found += [tuple(row) for row in connection.execute(query)]
        return found

    def users_who_clicked(self, item_ids: Sequence[str]) -> list[str]:
        """Users with clicks on any of the items."""
        found: set[str] = set()
        for part in _parts(item_ids):
            query = select(_EVENTS.c.user_id).where(
                _EVENTS.c.item_id.in_(part), _EVENTS.c.kind == CLICK
            )
            with self._database.naming_it(), self._database.engine.connect() as connection:
                found.update(connection.scalars(query.distinct()))
        return sorted(found)

    def users(self, after: str = "", limit: int | None = None) -> list[str]:
        """Users with clicks in the database's order of text: those after one, at most `limit`."""
        query = select(_EVENTS.c.user_id).where(_EVENTS.c.kind == CLICK, _EVENTS.c.user_id > after)
        query = query.distinct().order_by(_EVENTS.c.user_id).limit(limit)
        with self._database.naming_it(), self._database.engine.connect() as connection:
            return list(connection.scalars(query))

    @property
    def end(self) -> int:
        """Position of the last event, 0 of an empty log."""
        with self._database.naming_it(), self._database.engine.connect() as connection:
            return connection.scalar(select(func.max(_EVENTS.c.position))) or 0

    def offset(self, consumer: str) -> int:
        """Up to where a consumer has read; 0 before its first time."""
        query = select(_OFFSETS.c.position).where(_OFFSETS.c.consumer == consumer)
        with self._database.naming_it(), self._database.engine.connect() as connection:
            return connection.scalar(query) or 0

    def advance(self, consumer: str, position: int) -> None:
        """Remember up to where a consumer has read."""
        statement = self._database.insert(_OFFSETS).values(consumer=consumer, position=position)
        with self._database.naming_it(), self._database.engine.begin() as connection:
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["consumer"], set_={"position": position}
                )
            )

    def writing(self, *, shared: bool = False) -> AbstractContextManager[None]:
        """Hold the right to write histories to the online store: one holder at a time.

        Who reads a row, adds to it and writes it back must not be interrupted by another who does.
        The right goes with its process.

        Args:
            shared: together with others who ask likewise, all of whom write other users' rows.
        """
        return self._database.holding("writing", shared=shared)

    def _read(self, query: Any) -> list[LoggedEvent]:
        with self._database.naming_it(), self._database.engine.connect() as connection:
            return [_from_row(row) for row in connection.execute(query)]


def _parts(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + _IDS_PER_QUERY] for start in range(0, len(ids), _IDS_PER_QUERY)]


def _to_row(one: Event, received: float) -> dict[str, Any]:
    return {
        "event_id": one.event_id,
        "user_id": one.user_id,
        "item_id": one.item_id,
        "kind": one.kind,
        "time": one.time,
        "value": one.value,
        "context": json.dumps(one.context),
        "received_at": received,
    }


def _from_row(row: Row[Any]) -> LoggedEvent:
    one = Event(
        row.event_id, row.user_id, row.item_id, cast(Kind, row.kind), row.time, row.value,
        json.loads(row.context),
    )  # fmt: skip
    return LoggedEvent(row.position, one, row.received_at)
