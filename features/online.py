"""The online side: the only place that reads from or writes to Feast's registry and online store.

A codebook is published by `apply` and then `materialise`; a `FeatureReader` serves it. Both
publishing steps work on a copy of the registry, which takes the registry's place when the step is
complete. Readers therefore never meet a registry that is half written, nor a view in the state
MATERIALIZING, which Feast refuses to read; and an interrupted step leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from feast import FeatureStore, RepoConfig
from feast.errors import FeatureViewNotFoundException
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from features.definitions import (
    STATISTICS_VIEW,
    codebook_of_service,
    define,
    history_view_name,
    item_view_name,
)
from features.offline import (
    CODE,
    EVENT_TIMESTAMP,
    HISTORY,
    history_path,
    item_path,
    item_rows,
    packed_histories,
)
from features.statistics import ItemStatistics
from hymirec.errors import DataError, HymirecError, VersionError
from hymirec.history import History, unpack, unpack_code
from hymirec.home import ENV_HOME, Home
from hymirec.schema import ITEM_ID, USER_ID

_LOG = logging.getLogger(__name__)
_CONFIG_FILE = Path(__file__).with_name("feature_store.yaml")
_KEYS_PER_READ = 10_000
"""SQLite refuses a statement of some tens of thousands of keys."""
_ROWS_PER_WRITE = 50_000


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


def store_config(home: Home) -> RepoConfig:
    """Read feature_store.yaml for one home; the environment is not consulted."""
    text = _CONFIG_FILE.read_text(encoding="utf-8")
    # Filled in after parsing, so that a path may hold any character.
    return RepoConfig(repo_path=home.feast, **_fill_in(yaml.safe_load(text), str(home.root)))


def open_store(home: Home) -> FeatureStore:
    """Open the Feast store of a home in which something is published.

    Raises:
        VersionError: nothing was ever published there.
        HymirecError: the registry cannot be read, or the online store is missing.
    """
    config = store_config(home)
    # Feast would create both files, and a reader must not.
    if not Path(config.registry.path).is_file():
        raise VersionError(f"no codebook is published in {home.root}")
    if not Path(config.online_store.path).is_file():
        raise HymirecError(f"online store {config.online_store.path} is missing")
    with _naming_the_store(home):
        store = FeatureStore(config=config)
        store.registry.refresh()
    return store


def apply(home: Home, codebook_id: str) -> None:
    """Enter a codebook's definitions beside those already there; nothing is readable yet.

    Raises:
        VersionError: the codebook id is not one.
        HymirecError: the registry or the online store cannot be written.
    """
    definitions = define(home, codebook_id)
    with changing_registry(home) as store:
        store.apply([*definitions.entities, *definitions.views, definitions.service])


def materialise(home: Home, codebook_id: str) -> None:
    """Bring everything in a codebook's offline files online; doing it again changes nothing.

    Each view appears whole, in one transaction.

    Raises:
        VersionError: the codebook's definitions or offline files are not there.
        DataError: an offline file is damaged or has no rows.
        HymirecError: the registry or the online store cannot be written.
    """
    spans = [_time_span(path(home, codebook_id)) for path in (item_path, history_path)]
    # The window is explicit: Feast's incremental one skips rows older than it has seen, and event
    # times may be decades old.
    margin = timedelta(seconds=1)
    start = min(first for first, _ in spans) - margin
    end = max(last for _, last in spans) + margin
    views = [item_view_name(codebook_id), history_view_name(codebook_id)]
    with changing_registry(home) as store:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                store.materialize(start, end, feature_views=views)
        except FeatureViewNotFoundException as error:
            raise VersionError(f"codebook {codebook_id} was not applied in {home.root}") from error
        _LOG.debug("feast: %s", printed.getvalue())


def list_codebooks(home: Home) -> list[str]:
    """List the ids of the codebooks published in a home, in alphabetical order."""
    try:
        return _published(open_store(home))
    except VersionError:
        return []


class FeatureReader:
    """Reads the features of one codebook in one home; may be shared by threads."""

    def __init__(self, home: Home, codebook_id: str) -> None:
        """Open the store and read from it once, so that the first request is not the slow one.

        Raises:
            VersionError: the codebook is not published in this home.
            HymirecError: the registry or the online store cannot be read.
        """
        self.home = home
        self.codebook_id = codebook_id
        not_published = f"codebook {codebook_id} is not published in {home.root}"
        try:
            self._store = open_store(home)
        except VersionError as error:
            raise VersionError(f"{not_published}: nothing is") from error
        published = _published(self._store)
        if codebook_id not in published:
            others = f"published: {', '.join(published)}" if published else "nothing is"
            raise VersionError(f"{not_published}: {others}")
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
                with _naming_the_store(self.home):
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

    def _read(self, view: str, feature: str, key: str, ids: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for start in range(0, len(ids), _KEYS_PER_READ):
            part = [str(value) for value in ids[start : start + _KEYS_PER_READ]]
            try:
                with _naming_the_store(self.home):
                    response = self._store.get_online_features([f"{view}:{feature}"], {key: part})
            except FeatureViewNotFoundException as error:
                raise VersionError(
                    f"codebook {self.codebook_id} is no longer published in {self.home.root}"
                ) from error
            values = response.to_dict()[feature]
            found.update(
                (value, blob) for value, blob in zip(part, values, strict=True) if blob is not None
            )
        return found


class FeatureWriter:
    """Writes rows of one published codebook over those there are.

    Histories are written by whoever holds the right to (`features.event_log.EventLog.writing`).
    """

    def __init__(self, home: Home, codebook_id: str) -> None:
        """Open the store. Raises as `FeatureReader`."""
        self.home = home
        self.codebook_id = codebook_id
        self._store = open_store(home)
        if codebook_id not in _published(self._store):
            raise VersionError(f"codebook {codebook_id} is not published in {home.root}")

    def write_histories(self, histories: Mapping[str, History]) -> None:
        """Write users' rows, stamped with the present time.

        Raises:
            HymirecError: the online store cannot be written.
        """
        self._write(
            history_view_name(self.codebook_id), packed_histories(histories, datetime.now(UTC))
        )

    def write_item_codes(self, item_ids: Sequence[str], codes: NDArray[np.uint8]) -> None:
        """Write items' rows; codes uint8 [N, bytes per item]. Raises as `write_histories`."""
        rows = item_rows(item_ids, codes, self.codebook_id, datetime.now(UTC))
        self._write(item_view_name(self.codebook_id), rows)

    def write_item_statistics(self, statistics: pd.DataFrame) -> None:
        """Write rows of `features.statistics.count_items`. Raises as `write_histories`."""
        for start in range(0, len(statistics), _ROWS_PER_WRITE):
            self._write(STATISTICS_VIEW, statistics[start : start + _ROWS_PER_WRITE])

    def _write(self, view: str, rows: pd.DataFrame) -> None:
        if len(rows):
            with _naming_the_store(self.home):
                self._store.write_to_online_store(view, rows, allow_registry_cache=True)


def _published(store: FeatureStore) -> list[str]:
    """List the codebooks whose views have all been materialised."""
    filled = {view.name for view in store.list_feature_views() if view.materialization_intervals}
    names = (codebook_of_service(service.name) for service in store.list_feature_services())
    return sorted(
        name
        for name in names
        if name is not None and {item_view_name(name), history_view_name(name)} <= filled
    )


@contextlib.contextmanager
def changing_registry(home: Home) -> Iterator[FeatureStore]:
    """Open a home's store to change it, one at a time; its registry is replaced at the end."""
    config = store_config(home)
    registry = Path(config.registry.path)
    draft = registry.with_name(f"{registry.name}.draft")
    with _naming_the_store(home):
        registry.parent.mkdir(parents=True, exist_ok=True)
        with registry.with_name(".publish.lock").open("w") as lock:
            # Feast keeps the last registry written: without a lock one of two would be lost.
            fcntl.flock(lock, fcntl.LOCK_EX)
            draft.unlink(missing_ok=True)
            if registry.exists():
                shutil.copyfile(registry, draft)
            config.registry.path = str(draft)
            try:
                # Lets reads go on while rows are written; SQLite keeps the setting in the file.
                _pragma(config, "journal_mode=WAL")
                yield FeatureStore(config=config)
                # Feast does not close its connection, which would do this.
                _pragma(config, "wal_checkpoint(TRUNCATE)")
                draft.replace(registry)
            finally:
                draft.unlink(missing_ok=True)


def _pragma(config: RepoConfig, setting: str) -> None:
    with contextlib.closing(sqlite3.connect(config.online_store.path)) as connection:
        connection.execute(f"PRAGMA {setting}")


@contextlib.contextmanager
def _naming_the_store(home: Home) -> Iterator[None]:
    """Say of a failure below Feast which store it befell."""
    try:
        yield
    except (sqlite3.Error, OSError, DecodeError) as error:
        raise HymirecError(
            f"feature store {home.feast} cannot be used: {type(error).__name__}: {error}"
        ) from error


def _time_span(path: Path) -> tuple[datetime, datetime]:
    """Find the first and last event time of an offline file."""
    try:
        times = pq.read_table(path, columns=[EVENT_TIMESTAMP])[EVENT_TIMESTAMP]
    except FileNotFoundError as error:
        raise VersionError(f"nothing to bring online: {path} is missing") from error
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from error
    if not len(times):
        raise DataError(f"{path}: no rows")
    span = pc.min_max(times).as_py()
    return span["min"], span["max"]


def _fill_in(value: Any, root: str) -> Any:
    """Put the home's path for ${HYMIREC_HOME} in every text of a parsed configuration."""
    if isinstance(value, dict):
        return {key: _fill_in(entry, root) for key, entry in value.items()}
    return value.replace(f"${{{ENV_HOME}}}", root) if isinstance(value, str) else value
