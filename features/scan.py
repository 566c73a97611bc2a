"""Everybody's history, a piece at a time: for work on all users that cannot hold them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from features.logs.event_log import EventLog
from features.offline import group_sizes, read_groups, read_user_ids
from features.updates import HistoryUpdater
from hymirec.history import History
from hymirec.home import Home


class HistoryScan:
    """Histories of one codebook as a request would find them: as published, with the log's clicks.

    Users come in pieces: groups of rows of the published file, and then newcomers, whom only the
    log knows. Close it when done.
    """

    def __init__(self, home: Home, codebook_id: str) -> None:
        """Open log and store.

        Raises:
            VersionError: the codebook is not published in this home.
            HymirecError: a store cannot be used.
        """
        self.home, self.codebook_id = home, codebook_id
        self.sizes = group_sizes(home, codebook_id)
        self._log = EventLog(home)
        self._updater = HistoryUpdater(self._log, codebook_id)

    @property
    def num_groups(self) -> int:
        """Groups of rows in the published file; `sizes` has the users in each."""
        return len(self.sizes)

    def groups(self, places: Sequence[int]) -> dict[str, History]:
        """Histories by user of some groups of rows, in their order."""
        return self._with_clicks(read_groups(self.home, self.codebook_id, places))

    def newcomers(self, users_at_once: int) -> Iterator[list[str]]:
        """Users who have clicks in the log and no published history, so many at a time.

        What is held of published users are their ids and eight bytes each.
        """
        published = np.sort(_hashes(read_user_ids(self.home, self.codebook_id)))
        last = ""
        while users := self._log.users(last, users_at_once):
            hashes = _hashes(users)
            places = np.searchsorted(published, hashes).clip(max=max(0, len(published) - 1))
            new = published[places] != hashes if len(published) else np.ones(len(users), bool)
            if new.any():
                yield [user for user, is_new in zip(users, new.tolist(), strict=True) if is_new]
            last = users[-1]

    def of_newcomers(self, user_ids: Sequence[str]) -> dict[str, History]:
        """Histories made of clicks alone, by user; those whose items have no codes are left out."""
        return self._with_clicks({}, user_ids)

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _with_clicks(
        self, histories: dict[str, History], user_ids: Sequence[str] | None = None
    ) -> dict[str, History]:
        found = self._log.clicks_of(list(histories) if user_ids is None else user_ids)
        clicks = {user: some for user, some in found.items() if some}
        return histories | self._updater.changed(histories, clicks)


def _hashes(users: Sequence[str]) -> np.ndarray:
    """uint64 [users]; one of 100 million newcomers is taken for known with a chance of 1:1,800."""
    return pd.util.hash_array(np.array(users, dtype=object), categorize=False)
