"""Training sets at any time: of a user and a time, the history as it stood then.

A history at time t holds the events with time ≤ t, as Feast's `get_historical_features` takes the
last row whose event time is ≤ the asked one. Event times count, not arrival: a click that came late
is where it happened. What stood then is cut from what is known now, the published history together
with the clicks in the event log, because a history only grows; so nothing is joined and no file is
read twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.logs.event_log import EventLog
from features.offline import EVENT_TIMESTAMP, NUM_EVENTS, read_histories, read_item_codes
from features.updates import no_history, with_clicks
from hymirec.errors import DataError
from hymirec.history import History
from hymirec.home import Home
from hymirec.inputs import IndexedHistory, index_history, seconds
from hymirec.schema import USER_ID

UNKNOWN_USER = "unknown user"
NO_EVENTS_YET = "no events until then"


@dataclass(frozen=True)
class TrainingSet:
    """R users at times, and what was known of them.

    Attributes:
        rows: the R rows asked about, in their order and with all their columns, and `num_events`:
            how many events the user had until then, 0 where there were none.
        histories: everything known of the users, by user id; users of whom nothing is known are
            not in it.
    """

    rows: pd.DataFrame
    histories: Mapping[str, History]

    def __len__(self) -> int:
        return len(self.rows)

    def history(self, row: int) -> History | None:
        """Return the history of a row as it stood; None where there was none."""
        user_id, end = self.rows[USER_ID].iloc[row], int(self.rows[NUM_EVENTS].iloc[row])
        return self.histories[user_id][:end] if end else None

    @property
    def without_history(self) -> pd.DataFrame:
        """The rows without events, with `reason`: the user is unknown, or came later."""
        rows = self.rows[self.rows[NUM_EVENTS] == 0]
        known = rows[USER_ID].isin(self.histories.keys())
        return rows.assign(reason=np.where(known, NO_EVENTS_YET, UNKNOWN_USER))

    def indexed(self, item_index: Mapping[str, int]) -> list[IndexedHistory | None]:
        """Return R histories in the numbers of one model, None where there was none.

        Each is a view of its user's whole one; events of items that the model does not know are
        left out, so that a history may be shorter than `num_events`.
        """
        whole = {user: index_history(one, item_index) for user, one in self.histories.items()}
        times = {user: one.times for user, one in whole.items()}
        ends = _cut(self.rows[USER_ID], seconds(self.rows[EVENT_TIMESTAMP]), times)
        had_events = (self.rows[NUM_EVENTS] > 0).tolist()
        return [
            whole[user].until(end) if some else None
            for user, end, some in zip(self.rows[USER_ID], ends.tolist(), had_events, strict=True)
        ]


def training_set(home: Home, codebook_id: str, pairs: pd.DataFrame) -> TrainingSet:
    """Gather histories as they stood at the asked times.

    Args:
        home: where the codebook is published.
        codebook_id: whose codes the histories have.
        pairs: `user_id` and `event_timestamp`, a time (UTC where it has no zone); further columns,
            such as labels, stay.

    Raises:
        DataError: a column or a value is missing, or the times are none; a file is damaged.
        VersionError: the codebook is not published in this home.
        HymirecError: the event log cannot be read.
    """
    rows = _checked(pairs)
    users = rows[USER_ID].unique().tolist()
    histories = _known_histories(home, codebook_id, users)
    times = {user: one.times for user, one in histories.items()}
    ends = _cut(rows[USER_ID], seconds(rows[EVENT_TIMESTAMP]), times)
    return TrainingSet(rows.assign(**{NUM_EVENTS: ends}), histories)


def _checked(pairs: pd.DataFrame) -> pd.DataFrame:
    for column in (USER_ID, EVENT_TIMESTAMP):
        if column not in pairs:
            raise DataError(f"training set: column {column!r} is missing")
        if pairs[column].isna().any():
            raise DataError(f"training set: column {column!r} has missing values")
    if not pd.api.types.is_datetime64_any_dtype(pairs[EVENT_TIMESTAMP]):
        raise DataError(
            f"training set: column {EVENT_TIMESTAMP!r} is {pairs[EVENT_TIMESTAMP].dtype}, no time"
        )
    rows = pairs.reset_index(drop=True)
    rows[USER_ID] = rows[USER_ID].astype(str)
    rows[EVENT_TIMESTAMP] = pd.to_datetime(rows[EVENT_TIMESTAMP], utc=True)
    return rows


def _known_histories(home: Home, codebook_id: str, user_ids: list[str]) -> dict[str, History]:
    """Join what was published of users with their clicks in the log; the unknown are left out."""
    known = read_histories(home, codebook_id, user_ids)
    event_log = EventLog(home)
    try:
        clicks = {user: its for user, its in event_log.clicks_of(user_ids).items() if its}
    finally:
        event_log.close()
    items = {click.item_id for its in clicks.values() for click in its}
    codes = read_item_codes(home, codebook_id, items) if items else {}
    if codes:
        nothing = no_history(codebook_id, len(next(iter(codes.values()))))
        for user, its in clicks.items():
            known[user] = with_clicks(known.get(user, nothing), its, codes, keep_all=True)
    return {user: history for user, history in known.items() if len(history)}


def _cut(
    users: pd.Series, at: NDArray[np.int64], times: Mapping[str, NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Count, for R users and times, the events until then; `times` [L] by user, never falling."""
    numbers, names = pd.factorize(users)
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(len(names) + 1))
    ends = np.zeros(len(users), dtype=np.int64)
    for name, (start, stop) in zip(names, itertools.pairwise(bounds), strict=True):
        rows = order[start:stop]
        if name in times:
            ends[rows] = np.searchsorted(times[name], at[rows], side="right")
    return ends
