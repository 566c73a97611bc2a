"""Everybody's history, a piece at a time: for work on all users that cannot hold them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from features.event_log import EventLog
from features.offline import HISTORY, history_path
from features.updates import HistoryUpdater
from hymirec.errors import VersionError
from hymirec.history import History, unpack
from hymirec.home import Home
from hymirec.schema import USER_ID


class HistoryScan:
    """Histories of one codebook as a request would find them: as published, with the log's clicks.

    Users come in pieces: groups of rows of the published file, and then newcomers, whom only the
    log knows. Close it when done.
    """

    def __init__(self, home: Home, codebook_id: str) -> None:
        """Open file, log and store.

        Raises:
            VersionError: the codebook is not published in this home.
            HymirecError: a store cannot be used.
        """
        self.codebook_id = codebook_id
        path = history_path(home, codebook_id)
        if not path.exists():
            raise VersionError(f"no histories of codebook {codebook_id}: {path} is missing")
        self._file = pq.ParquetFile(path)
        self._log = EventLog(home)
        self._updater = HistoryUpdater(self._log, codebook_id)

    @property
    def num_groups(self) -> int:
        """Groups of rows in the published file."""
        return self._file.num_row_groups

    def num_users_in(self, groups: Sequence[int]) -> int:
        """Users in some groups of rows."""
        return sum(self._file.metadata.row_group(group).num_rows for group in groups)

    def groups(self, places: Sequence[int]) -> dict[str, History]:
        """Histories by user of some groups of rows, in their order."""
        table = self._file.read_row_groups(list(places), columns=[USER_ID, HISTORY])
        users, blobs = table[USER_ID].to_pylist(), table[HISTORY].to_pylist()
        found = {
            user: unpack(blob, self.codebook_id) for user, blob in zip(users, blobs, strict=True)
        }
        return self._with_clicks(found)

    def newcomers(self, users_at_once: int) -> Iterator[list[str]]:
        """Users who have clicks in the log and no published history, so many at a time.

        What is held of published users is eight bytes each.
        """
        published = np.sort(
            np.concatenate(
                [
                    _hashes(
                        self._file.read_row_group(group, columns=[USER_ID])[USER_ID].to_pylist()
                    )
                    for group in range(self.num_groups)
                ]
                or [_hashes([])]
            )
        )
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
        """Close file and log."""
        self._file.close()
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
