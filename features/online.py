"""The online side: the only place that reads rows of the online store and writes them.

What is published is listed in Feast's registry (`features.stores`); publishing a codebook is
`features.publication`'s.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.definitions import STATISTICS_VIEW, history_view_name, item_view_name
from features.lean_feast import (
    EntityKey,
    FeatureStore,
    FeatureView,
    FeatureViewNotFoundException,
    Value,
)
from features.offline import CODE, HISTORY, item_rows, packed_histories
from features.statistics import ItemStatistics
from features.stores import (
    applied,
    naming_the_store,
    open_store,
    place,
    provider,
    published,
    published_in,
)
from hymirec.errors import VersionError
from hymirec.history import History, unpack, unpack_code
from hymirec.home import Home
from hymirec.schema import ITEM_ID, USER_ID

_KEYS_PER_READ = 10_000
"""SQLite refuses a statement of some tens of thousands of keys."""
_ROWS_PER_WRITE = 50_000
_SECONDS_BETWEEN_LOOKS = 10
"""At the registry as Feast remembers it, which it does for some minutes."""


@dataclass(frozen=True)
class UserRow:
    """One user as the online store holds it.

    Attributes:
        history: at least one event.
        written_at: when the row was written. Taken from the history, because the store's own
            timestamp is wrong where writer and reader are in different time zones.
    """

    history: History
    written_at: datetime

    def age_seconds(self, now: datetime) -> float:
        """Seconds from the writing of the row to `now`, a time with its zone."""
        return (now - self.written_at).total_seconds()


def list_codebooks(home: Home) -> list[str]:
    """List the ids of the codebooks published in a home, in alphabetical order."""
    try:
        return published_in(home)
    except VersionError:
        return []


class FeatureReader:
    """Reads the features of one codebook in one home; may be shared by threads."""

    def __init__(self, home: Home, codebook_id: str, *, unfinished: bool = False) -> None:
        """Open the store and read from it once, so that the first request is not the slow one.

        Args:
            home: whose store it is.
            codebook_id: which codes and histories to read.
            unfinished: for publishing alone: not all rows need to be online yet.

        Raises:
            VersionError: the codebook is not published in this home.
            HymirecError: the registry or the online store cannot be read.
        """
        self.home = home
        self.codebook_id = codebook_id
        self._store = _open(home, codebook_id, unfinished)
        # `get_online_features` would take three times as long for a user, most of it to prepare
        # for several views, types and entities at once.
        self._online = provider(self._store)
        self._views: dict[str, tuple[FeatureView, float]] = {}
        # Feast opens its one connection on the first read and without a lock.
        self.read_user("")
        self.read_item_codes([""])

    def read_user(self, user_id: str) -> UserRow | None:
        """Read one user; None for a user who is unknown or has no events.

        Raises:
            DataError: the row is damaged.
            VersionError: the row was made with another codebook, or this one is gone.
            HymirecError: the online store cannot be read.
        """
        return self.read_users([user_id]).get(user_id)

    def read_users(self, user_ids: Sequence[str]) -> dict[str, UserRow]:
        """Read users by id; those unknown or without events are left out. Raises as `read_user`."""
        blobs = self._read(history_view_name(self.codebook_id), HISTORY, USER_ID, user_ids)
        rows = {}
        for user_id, blob in blobs.items():
            history = unpack(blob, self.codebook_id)
            if len(history):
                rows[user_id] = UserRow(history, datetime.fromtimestamp(history.written_at, UTC))
        return rows

    def read_item_codes(self, item_ids: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
        """Read packed codes, uint8 [bytes per item], by item id; unknown items are left out.

        Raises as `read_user`.
        """
        blobs = self._read(item_view_name(self.codebook_id), CODE, ITEM_ID, item_ids)
        return {item_id: unpack_code(blob, self.codebook_id) for item_id, blob in blobs.items()}

    def read_item_statistics(self, item_ids: Sequence[str]) -> dict[str, ItemStatistics]:
        """Read statistics by item id; items without events are left out.

        Raises:
            VersionError: no statistics are published in this home.
            HymirecError: the online store cannot be read.
        """
        names = [field.name for field in fields(ItemStatistics)]
        asked = [f"{STATISTICS_VIEW}:{name}" for name in names]
        found: dict[str, ItemStatistics] = {}
        for start in range(0, len(item_ids), _KEYS_PER_READ):
            part = [str(value) for value in item_ids[start : start + _KEYS_PER_READ]]
            try:
                with naming_the_store(self.home):
                    response = self._store.get_online_features(asked, {ITEM_ID: part})
            except FeatureViewNotFoundException as error:
                raise VersionError(
                    f"no item statistics in {self.home.root}: an earlier version published it"
                ) from error
            columns = response.to_dict()
            rows = zip(*(columns[name] for name in names), strict=True)
            found.update(
                (item_id, ItemStatistics(*row))
                for item_id, row in zip(part, rows, strict=True)
                if row[0] is not None
            )
        return found

    @property
    def schema_digest(self) -> str:
        """Digest of the fields that are read, by name and type, 12 hex digits."""
        views = item_view_name(self.codebook_id), history_view_name(self.codebook_id)
        fields = [
            f"{kind} {field.name} {field.dtype}"
            for kind, view in zip(("item", "user"), views, strict=True)
            for field in self._view(view).features
        ]
        return hashlib.sha256("\n".join(sorted(fields)).encode()).hexdigest()[:12]

    def refuse_other_schema(self, digest: str) -> None:
        """Refuse a model that was registered for other fields; without a digest, none is.

        Raises:
            VersionError: it was.
        """
        if digest and digest != self.schema_digest:
            raise VersionError(
                f"the features of codebook {self.codebook_id} have schema {self.schema_digest} in "
                f"{place(self.home)}, this model was made for {digest}"
            )

    def _read(self, view: str, feature: str, key: str, ids: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for start in range(0, len(ids), _KEYS_PER_READ):
            part = [str(value) for value in ids[start : start + _KEYS_PER_READ]]
            keys = [
                EntityKey(join_keys=[key], entity_values=[Value(string_val=one)]) for one in part
            ]
            table = self._view(view)
            with naming_the_store(self.home):
                rows = self._online.online_read(self._store.config, table, keys, [feature])
            for one, (_, values) in zip(part, rows, strict=True):
                # Redis's reader gives an empty value for a row that is not there.
                if values and (blob := values[feature].bytes_val):
                    found[one] = blob
        return found

    def _view(self, name: str) -> FeatureView:
        """Look a view up in the registry, from time to time: that takes longer than to read."""
        now = time.monotonic()
        view, since = self._views.get(name, (None, 0.0))
        if view is None or now - since > _SECONDS_BETWEEN_LOOKS:
            try:
                with naming_the_store(self.home):
                    view = self._store.get_feature_view(name, allow_registry_cache=True)
            except FeatureViewNotFoundException as error:
                raise VersionError(
                    f"codebook {self.codebook_id} is no longer published in {place(self.home)}"
                ) from error
            self._views[name] = view, now
        return view


class FeatureWriter:
    """Writes rows of one published codebook over those there are.

    Histories are written by whoever holds the right to (`EventLog.writing`).
    """

    def __init__(self, home: Home, codebook_id: str, *, unfinished: bool = False) -> None:
        """Open the store. Arguments and errors as of `FeatureReader`."""
        self.home = home
        self.codebook_id = codebook_id
        self._store = _open(home, codebook_id, unfinished)

    def write_histories(self, histories: Mapping[str, History]) -> None:
        """Write users' rows, stamped with the present time.

        Raises:
            HymirecError: the online store cannot be written.
        """
        self.write_history_rows(packed_histories(histories, datetime.now(UTC)))

    def write_history_rows(self, rows: pd.DataFrame) -> None:
        """Write rows of `offline.history_rows` as they are. Raises as `write_histories`."""
        self._write(history_view_name(self.codebook_id), rows)

    def write_item_codes(self, item_ids: Sequence[str], codes: NDArray[np.uint8]) -> None:
        """Write items' rows; codes uint8 [N, bytes per item]. Raises as `write_histories`."""
        self.write_item_rows(item_rows(item_ids, codes, self.codebook_id, datetime.now(UTC)))

    def write_item_rows(self, rows: pd.DataFrame) -> None:
        """Write rows of `offline.item_rows` as they are. Raises as `write_histories`."""
        self._write(item_view_name(self.codebook_id), rows)

    def write_item_statistics(self, statistics: pd.DataFrame) -> None:
        """Write rows of `features.statistics.count_items`. Raises as `write_histories`."""
        for start in range(0, len(statistics), _ROWS_PER_WRITE):
            self._write(STATISTICS_VIEW, statistics[start : start + _ROWS_PER_WRITE])

    def _write(self, view: str, rows: pd.DataFrame) -> None:
        if len(rows):
            try:
                with naming_the_store(self.home):
                    self._store.write_to_online_store(view, rows, allow_registry_cache=True)
            except (FeatureViewNotFoundException, KeyError) as error:
                raise VersionError(
                    f"codebook {self.codebook_id} is no longer published in {place(self.home)}"
                ) from error


def _open(home: Home, codebook_id: str, unfinished: bool) -> FeatureStore:
    """Open a home's store, if the codebook is published or, for publishing, in the registry."""
    lacking = f"codebook {codebook_id} is not {'applied' if unfinished else 'published'} in"
    lacking = f"{lacking} {place(home)}"
    try:
        store = open_store(home)
    except VersionError as error:
        raise VersionError(f"{lacking}: nothing is") from error
    with naming_the_store(home):
        names = applied(store) if unfinished else published(store)
    if codebook_id not in names:
        others = f"{'applied' if unfinished else 'published'}: {', '.join(names)}"
        raise VersionError(f"{lacking}: {others if names else 'nothing is'}")
    return store
