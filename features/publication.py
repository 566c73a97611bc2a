"""Publishing a codebook: definitions into the registry, offline files into the online store.

Rows are written piece by piece, in bounded memory, and no row that has clicks from the event log
ever loses them. A codebook is published when Feast notes its views as materialised, which comes
last: interrupted before that, nothing of it is visible, and doing it again makes it whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.definitions import define, history_view_name, item_view_name
from features.logs.event_log import CLICK, EventLog
from features.offline import (
    HISTORY,
    history_path,
    history_rows,
    item_path,
    item_rows,
    packed_histories,
    write,
)
from features.online import FeatureWriter
from features.stores import changing_registry, tidy_up
from features.updates import EVENTS_PER_ROUND, HistoryUpdater, note_publication
from hymirec.errors import DataError, VersionError
from hymirec.history import unpack
from hymirec.home import Home
from hymirec.long_work import lines
from hymirec.schema import USER_ID

_ITEMS_PER_WRITE = 5000
_USERS_PER_WRITE = 500
"""Few, because the consumer of events waits meanwhile, and a history may have 100 KB."""


def publish(
    home: Home, codebook_id: str, interactions: pd.DataFrame, item_ids: Sequence[str],
    codes: NDArray[np.uint8], at: datetime,
) -> None:  # fmt: skip
    """Publish a codebook's item codes and user histories: offline files, definitions, rows online.

    Arguments and errors as `features.offline.history_rows`, `apply` and `materialise`.
    """
    items = item_rows(item_ids, codes, codebook_id, at)
    histories = history_rows(interactions, item_ids, codes, codebook_id, at)
    write(home, codebook_id, items, histories)
    apply(home, codebook_id)
    materialise(home, codebook_id)


def apply(home: Home, codebook_id: str) -> None:
    """Enter a codebook's definitions beside those already there; nothing is readable yet.

    Raises:
        VersionError: the codebook id is not one.
        HymirecError: the registry or the online store cannot be written.
    """
    definitions = define(home, codebook_id)
    with changing_registry(home) as store:
        store.apply([*definitions.entities, *definitions.views, definitions.service])
    tidy_up(home)


def materialise(home: Home, codebook_id: str) -> None:
    """Bring everything in a codebook's offline files online; doing it again changes nothing.

    The event log's clicks are added to every history that is written; users whom only the log
    knows get a row as well. Reads, and updates by the consumer of events, go on meanwhile.

    Raises:
        VersionError: the codebook's definitions or offline files are not there.
        DataError: an offline file is damaged or has no rows.
        HymirecError: a store cannot be used.
    """
    items, histories = (_opened(path(home, codebook_id)) for path in (item_path, history_path))
    writer = FeatureWriter(home, codebook_id, unfinished=True)
    _write_items(writer, items)
    event_log = EventLog(home)
    try:
        _write_histories(writer, event_log, histories)
    finally:
        event_log.close()
    tidy_up(home)


def _write_items(writer: FeatureWriter, file: pq.ParquetFile) -> None:
    tell = lines("publish", "items")
    for done, rows in _pieces(file, _ITEMS_PER_WRITE):
        writer.write_item_rows(rows)
        tell(done, file.metadata.num_rows)


def _write_histories(writer: FeatureWriter, event_log: EventLog, file: pq.ParquetFile) -> None:
    """Write histories with their clicks, and tell Feast that the codebook is online."""
    updater = HistoryUpdater(event_log, writer.codebook_id, unfinished=True)
    position = event_log.end
    tell = lines("publish", "histories")
    for done, rows in _pieces(file, _USERS_PER_WRITE):
        with event_log.writing():
            writer.write_history_rows(_with_log(rows, event_log, updater))
        tell(done, file.metadata.num_rows)
    last = ""
    while users := event_log.users(last, _USERS_PER_WRITE):  # some of whom have no row yet
        with event_log.writing():
            updater.update(users)
        last = users[-1]
    # Until it is published the consumer passes the codebook over, so what came since the start is
    # still to be added; of the last round the consumer must not have any before it is published.
    while True:
        with event_log.writing():
            events = event_log.after(position, EVENTS_PER_ROUND)
            updater.update(sorted({one.event.user_id for one in events if one.event.kind == CLICK}))
            if len(events) < EVENTS_PER_ROUND:
                # First: killed between the two, consumers have looked once for nothing.
                note_publication(event_log)
                _note_as_online(writer)
                return
        position = events[-1].position


def _with_log(rows: pd.DataFrame, event_log: EventLog, updater: HistoryUpdater) -> pd.DataFrame:
    """Put histories with their clicks in the place of those rows whose users have any."""
    found = event_log.clicks_of(rows[USER_ID].tolist())
    clicks = {user: its_clicks for user, its_clicks in found.items() if its_clicks}
    blobs = rows.loc[rows[USER_ID].isin(clicks), [USER_ID, HISTORY]]
    histories = {user: unpack(blob, updater.codebook_id) for user, blob in blobs.to_numpy()}
    changed = updater.changed(histories, clicks)
    if not changed:
        return rows
    unchanged = rows[~rows[USER_ID].isin(changed)]
    return pd.concat([unchanged, packed_histories(changed, datetime.now(UTC))], ignore_index=True)


def _note_as_online(writer: FeatureWriter) -> None:
    span = datetime.fromtimestamp(0, UTC), datetime.now(UTC)
    with changing_registry(writer.home) as store:
        for name in (item_view_name(writer.codebook_id), history_view_name(writer.codebook_id)):
            store.registry.apply_materialization(store.get_feature_view(name), store.project, *span)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise VersionError(f"nothing to bring online: {path} is missing") from error
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from error
    if not file.metadata.num_rows:
        raise DataError(f"{path}: no rows")
    return file


def _pieces(file: pq.ParquetFile, size: int) -> Iterator[tuple[int, pd.DataFrame]]:
    """Read a file piece by piece; with each, how many rows there were up to its end.

    Row groups are asked for a few at a time, because `iter_batches` holds on to all that it has
    read until the file's end.
    """
    done, group = 0, 0
    while group < file.num_row_groups:
        groups: list[int] = []
        num_rows = 0
        while group < file.num_row_groups and (
            not groups or num_rows + file.metadata.row_group(group).num_rows <= size
        ):
            num_rows += file.metadata.row_group(group).num_rows
            groups.append(group)
            group += 1
        table = file.read_row_groups(groups)
        for start in range(0, num_rows, size):
            piece = table.slice(start, size)
            done += len(piece)
            yield done, piece.to_pandas()
