"""Clicks into histories: what makes a click count in the next request.

A row of the online store is what was published of a user together with the clicks in the event log.
Bringing a row up to date may be done any number of times, in any order, by anyone who holds the
log's right to write: of each item and second the row keeps as many events as the larger of the two
says, so that nothing is doubled, neither by a second try nor by data that already held the clicks.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from features.logs.event_log import CLICK, Click, EventLog, LoggedEvent
from features.offline import read_histories
from features.online import FeatureReader, FeatureWriter, list_codebooks
from hymirec.errors import DataError, HymirecError
from hymirec.history import History
from hymirec.home import Home
from hymirec.long_work import lines

log = logging.getLogger(__name__)

CONSUMER = "histories"
PUBLICATIONS = "publications"
"""Offset that counts publications, so that a consumer knows when to look for codebooks."""
MAX_EVENTS = 5000
"""Of a row; older events are left to the log and the offline files."""
EVENTS_PER_ROUND = 1000


def with_clicks(
    history: History,
    clicks: Sequence[Click],
    codes: Mapping[str, NDArray[np.uint8]],
    *,
    keep_all: bool = False,
) -> History:
    """Add the clicks that a history does not hold yet, each where its time puts it.

    Within a second come first the events that the log does not account for, as they stand, and then
    the log's in the log's order: so that a row whose clicks came one by one, or had to wait for
    their codes, is the one that all of them together make.

    Args:
        history: of one user, in order of time.
        clicks: all clicks of the user that the log holds, in order of time and arrival.
        codes: packed codes, uint8 [bytes per item], by item; a click on an item without one waits
            in the log.
        keep_all: keep more than `MAX_EVENTS` events, for a history that is to be cut at a time.

    Returns:
        The history itself where nothing changes; at most `MAX_EVENTS` events, the latest.
    """
    limit = sys.maxsize if keep_all else MAX_EVENTS
    held = _places_of_logged(history, clicks)
    # What a full row has dropped is no news.
    oldest = history.times[0] if len(history) >= limit else -np.inf
    ranks, new = list(range(len(history))), []
    for rank, click in enumerate(clicks, start=len(history)):
        if places := held.get((click.item_id, click.time)):
            ranks[places.popleft()] = rank
        elif click.time <= oldest:
            continue
        elif click.item_id in codes:
            ranks.append(rank)
            new.append(click)
    times = np.append(history.times, np.array([click.time for click in new], dtype=np.int64))
    order = np.lexsort((np.array(ranks), times))[-limit:]
    if not new and (order == np.arange(len(history))).all():
        return history
    item_ids = [*history.item_ids, *(click.item_id for click in new)]
    all_codes = np.concatenate([history.codes, *(codes[one.item_id][None] for one in new)])
    return replace(
        history,
        item_ids=[item_ids[place] for place in order],
        times=times[order],
        codes=all_codes[order],
    )


def _places_of_logged(
    history: History, clicks: Sequence[Click]
) -> dict[tuple[str, int], deque[int]]:
    """Where a history holds events that the log has, by item and second; the last of those alike.

    Of an item that a history holds more often in one second than the log, the first are not its.
    """
    keys = list(zip(history.item_ids, history.times.tolist(), strict=True))
    logged = Counter((click.item_id, click.time) for click in clicks)
    places: dict[tuple[str, int], deque[int]] = {key: deque(maxlen=n) for key, n in logged.items()}
    for place, key in enumerate(keys):
        if key in places:
            places[key].append(place)
    return places


class HistoryUpdater:
    """Brings the rows of one codebook up to date with the event log."""

    def __init__(self, event_log: EventLog, codebook_id: str, *, unfinished: bool = False) -> None:
        """Open the stores.

        Args:
            event_log: of the home whose rows are brought up to date.
            codebook_id: which rows.
            unfinished: for publishing alone: not all rows need to be online yet.

        Raises:
            VersionError: the codebook is not published in the log's home.
            HymirecError: a store cannot be used.
        """
        self.codebook_id = codebook_id
        self._log = event_log
        self._reader = FeatureReader(event_log.home, codebook_id, unfinished=unfinished)
        self._writer = FeatureWriter(event_log.home, codebook_id, unfinished=unfinished)

    def update(
        self, user_ids: Sequence[str], clicks: Mapping[str, Sequence[Click]] | None = None
    ) -> int:
        """Bring the rows of some users up to date; the number of rows that changed.

        The caller holds `EventLog.writing`.

        Args:
            user_ids: whose.
            clicks: of each, where they have been read already: all that can be news to its row.
        """
        rows = self._rows(user_ids)
        lacking = [user_id for user_id in user_ids if user_id not in rows]
        if lacking:
            rows |= read_histories(self._log.home, self.codebook_id, lacking)
        if clicks is None:
            clicks = self._log.clicks_of(user_ids)
        elif partly := [user_id for user_id in lacking if len(clicks[user_id]) >= MAX_EVENTS]:
            clicks = {**clicks, **self._log.clicks_of(partly)}
        changed = self.changed(rows, clicks)
        self._writer.write_histories(changed)
        return len(changed)

    def _rows(self, user_ids: Sequence[str]) -> dict[str, History]:
        """Histories as they are online, without rows that are lost or damaged."""
        try:
            rows = self._reader.read_users(user_ids)
        except DataError:
            rows = {}
            for user_id in user_ids:
                try:
                    rows |= self._reader.read_users([user_id])
                except DataError as error:
                    log.warning("the row of user %r is made anew: %s", user_id, error)
        return {user: row.history for user, row in rows.items()}

    def changed(
        self, histories: Mapping[str, History], clicks: Mapping[str, Sequence[Click]]
    ) -> dict[str, History]:
        """Add clicks to histories; codes of their items are read online.

        Args:
            histories: by user.
            clicks: by user; one without a history begins with an empty one.

        Returns:
            The histories to which something was added, by user.
        """
        items = {click.item_id for some in clicks.values() for click in some}
        codes = self._reader.read_item_codes(sorted(items))
        if not codes:
            return {}
        empty = no_history(self.codebook_id, len(next(iter(codes.values()))))
        changed = {}
        for user_id, its_clicks in clicks.items():
            before = histories.get(user_id, empty)
            after = with_clicks(before, its_clicks, codes)
            if after is not before:
                changed[user_id] = after
        return changed


class EventConsumer:
    """Follows the event log and keeps the histories of every published codebook up to date.

    Killed at any moment, it takes up where it was: what it had begun it does again, to no effect.
    """

    def __init__(self, home: Home) -> None:
        """Open the log of a home."""
        self.home = home
        self.event_log = EventLog(home)
        self._updaters: dict[str, HistoryUpdater] = {}
        self._publications = -1
        self._wake = threading.Event()

    def catch_up(self, stop: threading.Event | None = None) -> int:
        """Take in all events there are, or until told to stop; how many."""
        taken = 0
        tell = lines("events", "events")
        while not (stop and stop.is_set()) and self.event_log.after(
            self.event_log.offset(CONSUMER), 1
        ):
            with self.event_log.writing():
                position = self.event_log.offset(CONSUMER)
                events = self.event_log.after(position, EVENTS_PER_ROUND)
                self._find_codebooks()
                # Once for all codebooks: of a busy user these are many.
                clicks = self._news(events) if self._updaters else {}
                for updater in self._updaters.values():
                    updater.update(list(clicks), clicks)
                self.event_log.advance(CONSUMER, events[-1].position if events else position)
            taken += len(events)
            if len(events) == EVENTS_PER_ROUND:  # there are more
                tell(taken, taken + self.event_log.end - events[-1].position)
        return taken

    def _news(self, events: Sequence[LoggedEvent]) -> dict[str, list[Click]]:
        """Clicks of the users of some events, all that can be news to a row.

        Of somebody who has more than a row holds these are the latest so many, and what is as late
        as the events: or a robot's clicks would be read again from its first at each.
        """
        since: dict[str, int] = {}
        for one in (logged.event for logged in events if logged.event.kind == CLICK):
            since[one.user_id] = min(one.time, since.get(one.user_id, one.time))
        latest = self.event_log.start_of_latest(list(since), MAX_EVENTS)
        return self.event_log.clicks_of(
            sorted(since), {user: min(second, since[user]) for user, second in latest.items()}
        )

    def wake(self) -> None:
        """Say that there are new events."""
        self._wake.set()

    def run(self, stop: threading.Event, *, interval: float = 1.0) -> None:
        """Catch up whenever woken, and every so many seconds, until told to stop."""
        while not stop.is_set():
            self._wake.clear()
            try:
                # Opening the stores is slow: not while a click waits. Under the right to write, for
                # a publication counts itself before it is in the registry.
                if self.event_log.offset(PUBLICATIONS) != self._publications:
                    with self.event_log.writing():
                        self._find_codebooks()
                self.catch_up(stop)
            except Exception as error:  # whatever it is, events wait and are tried again
                known = isinstance(error, HymirecError)
                log.warning("events wait in the log: %s", error, exc_info=not known)
                self._publications = -1
                stop.wait(interval)
            self._wake.wait(interval)

    def lag_seconds(self) -> float:
        """How long the oldest event not taken in has waited; 0 when all are."""
        waiting = self.event_log.after(self.event_log.offset(CONSUMER), 1)
        return time.time() - waiting[0].received_at if waiting else 0.0

    def _find_codebooks(self) -> None:
        publications = self.event_log.offset(PUBLICATIONS)
        if publications != self._publications:
            self._updaters = {
                name: HistoryUpdater(self.event_log, name) for name in list_codebooks(self.home)
            }
            self._publications = publications


def note_publication(event_log: EventLog) -> None:
    """Tell consumers, whoever holds the right to write, that other codebooks are published."""
    event_log.advance(PUBLICATIONS, event_log.offset(PUBLICATIONS) + 1)


def no_history(codebook_id: str, code_bytes: int) -> History:
    """Make a history without events, as clicks are added to of a user nobody has met."""
    return History(
        [], np.zeros(0, dtype=np.int64), np.zeros((0, code_bytes), dtype=np.uint8), codebook_id
    )
