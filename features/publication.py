"""Publishing a codebook: definitions into the registry, offline files into the online store.

Files and rows are written in shards, in bounded memory, and no row that has clicks from the event
log ever loses them. A codebook is published when Feast notes its views as materialised, which comes
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

from features.building import build_histories_file
from features.definitions import define, history_view_name, item_view_name
from features.logs.event_log import CLICK, EventLog
from features.offline import (
    HISTORY,
    ITEM_SCHEMA,
    history_path,
    item_path,
    item_rows,
    packed_histories,
    write_table,
)
from features.online import FeatureWriter
from features.stores import changing_registry, online_is_shared, tidy_up
from features.updates import EVENTS_PER_ROUND, HistoryUpdater, note_publication
from hymirec.errors import DataError, VersionError
from hymirec.history import unpack
from hymirec.home import Home
from hymirec.long_work import lines
from hymirec.schema import USER_ID
from hymirec.sharding import EachShard, one_by_one

ROWS_PER_SHARD = 20_000
"""At least, but in the last shard; opening the stores takes a worker a moment."""
_ITEMS_PER_WRITE = 5000
_USERS_PER_WRITE = 500
"""Few, because the consumer of events waits meanwhile, and a history may have 100 KB."""


def publish(
    home: Home, codebook_id: str, interactions: Path, item_ids: Sequence[str],
    codes: NDArray[np.uint8], at: datetime, each_shard: EachShard = one_by_one,
) -> None:  # fmt: skip
    """Publish a codebook's item codes and user histories: offline files, definitions, rows online.

    Arguments and errors as `build_histories_file`, `apply` and `materialise`.
    """
    items = item_rows(item_ids, codes, codebook_id, at)
    write_table(item_path(home, codebook_id), items, ITEM_SCHEMA)
    build_histories_file(home, codebook_id, interactions, item_ids, codes, at, each_shard)
    apply(home, codebook_id)
    materialise(home, codebook_id, each_shard)


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


def materialise(home: Home, codebook_id: str, each_shard: EachShard = one_by_one) -> None:
    """Bring everything in a codebook's offline files online; doing it again changes nothing.

    The event log's clicks are added to every history that is written; users whom only the log
    knows get a row as well. Reads, and updates by the consumer of events, go on meanwhile.

    Args:
        home: whose files and stores.
        codebook_id: whose rows; one publication of a codebook at a time.
        each_shard: has the shards written, if the online store is one that machines share.

    Raises:
        VersionError: the codebook's definitions or offline files are not there.
        DataError: an offline file is damaged or has no rows.
        HymirecError: a store cannot be used.
    """
    items, histories = (_shards(path(home, codebook_id)) for path in (item_path, history_path))
    writer = FeatureWriter(home, codebook_id, unfinished=True)
    event_log = EventLog(home)
    each_shard = each_shard if online_is_shared() else one_by_one
    common = {"home": home.root, "codebook_id": codebook_id}
    try:
        position = event_log.end
        for what, work, (groups, sizes) in (
            ("items", write_items, items), ("histories", write_histories, histories)
        ):  # fmt: skip
            asked = [common | {"groups": some} for some in groups]
            for _ in each_shard("publish", work, asked, sizes=sizes, what=what):
                pass
        _finish(writer, event_log, position)
    finally:
        event_log.close()
    tidy_up(home)


def write_items(home: Path, codebook_id: str, groups: Sequence[int]) -> None:
    """Write the items of some groups of rows of the offline file online.

    Args:
        home: root of the home.
        codebook_id: whose.
        groups: which.
    """
    place = Home.at(home)
    writer = FeatureWriter(place, codebook_id, unfinished=True)
    with _opened(item_path(place, codebook_id)) as file:
        for rows in _pieces(file, groups, _ITEMS_PER_WRITE):
            writer.write_item_rows(rows)


def write_histories(home: Path, codebook_id: str, groups: Sequence[int]) -> None:
    """Write the histories of some groups of rows online, with their clicks, as `write_items`."""
    place = Home.at(home)
    writer = FeatureWriter(place, codebook_id, unfinished=True)
    event_log = EventLog(place)
    try:
        updater = HistoryUpdater(event_log, codebook_id, unfinished=True)
        with _opened(history_path(place, codebook_id)) as file:
            for rows in _pieces(file, groups, _USERS_PER_WRITE):
                # Other shards have other users; a file takes one writer.
                with event_log.writing(shared=online_is_shared()):
                    writer.write_history_rows(_with_log(rows, event_log, updater))
    finally:
        event_log.close()


def _finish(writer: FeatureWriter, event_log: EventLog, position: int) -> None:
    """Add what the log has besides, and tell Feast that the codebook is online.

    Args:
        writer: of the codebook.
        event_log: of its home.
        position: where the log ended before the first history was written.
    """
    updater = HistoryUpdater(event_log, writer.codebook_id, unfinished=True)
    last, done, tell = "", 0, lines("publish", "users with clicks")
    while users := event_log.users(last, _USERS_PER_WRITE):  # some of whom have no row yet
        with event_log.writing():
            updater.update(users)
        last, done = users[-1], done + len(users)
        tell(done, None)
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


def _shards(path: Path) -> tuple[list[list[int]], list[int]]:
    """Groups of rows of each shard of an offline file, and how many rows it has."""
    groups: list[list[int]] = [[]]
    sizes = [0]
    with _opened(path) as file:
        for group in range(file.num_row_groups):
            if sizes[-1] >= ROWS_PER_SHARD:
                groups.append([])
                sizes.append(0)
            groups[-1].append(group)
            sizes[-1] += file.metadata.row_group(group).num_rows
    return groups, sizes


def _pieces(file: pq.ParquetFile, groups: Sequence[int], size: int) -> Iterator[pd.DataFrame]:
    """Read some groups of rows piece by piece.

    They are asked for a few at a time, because `iter_batches` holds on to all that it has read
    until the file's end.
    """
    waiting = list(groups)
    while waiting:
        some = [waiting.pop(0)]
        num_rows = file.metadata.row_group(some[0]).num_rows
        while waiting and num_rows + file.metadata.row_group(waiting[0]).num_rows <= size:
            some.append(waiting.pop(0))
            num_rows += file.metadata.row_group(some[-1]).num_rows
        table = file.read_row_groups(some)
        for start in range(0, num_rows, size):
            yield table.slice(start, size).to_pandas()
