"""The offline side: rows of item codes and user histories, and the files they lie in.

One directory per codebook holds two parquet files, which together with the item statistics beside
them are the source of everything Feast serves and of every training set. Their schemas are written
here once; Feast's fields are generated from them (`features.definitions`). Nothing here imports
Feast.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hymirec import additions
from hymirec.errors import DataError, VersionError
from hymirec.history import History, pack, pack_codes, unpack, unpack_code
from hymirec.home import Home
from hymirec.inputs import build_histories, item_positions
from hymirec.schema import ITEM_ID, USER_ID

CODE = "code"
HISTORY = "history"
NUM_EVENTS = "num_events"
EVENT_TIMESTAMP = "event_timestamp"
CREATED = "created"
POPULARITY = "popularity"
NUM_USERS = "num_users"
FIRST_SEEN = "first_seen"
LAST_SEEN = "last_seen"
COUNTED_AT = "counted_at"

ROWS_PER_GROUP = 1_000
"""Of a file: what is read at once to find the row of one user."""


_TIME = pa.timestamp("us", tz="UTC")
ITEM_SCHEMA = pa.schema(
    [(ITEM_ID, pa.string()), (CODE, pa.binary()), (EVENT_TIMESTAMP, _TIME), (CREATED, _TIME)]
)
HISTORY_SCHEMA = pa.schema(
    [
        (USER_ID, pa.string()),
        (HISTORY, pa.binary()),
        (NUM_EVENTS, pa.int64()),
        (EVENT_TIMESTAMP, _TIME),
        (CREATED, _TIME),
    ]
)
STATISTICS_SCHEMA = pa.schema(
    [
        (ITEM_ID, pa.string()),
        (POPULARITY, pa.int64()),
        (NUM_USERS, pa.int64()),
        (FIRST_SEEN, pa.int64()),
        (LAST_SEEN, pa.int64()),
        (COUNTED_AT, pa.int64()),
        (EVENT_TIMESTAMP, _TIME),
        (CREATED, _TIME),
    ]
)


def item_path(home: Home, codebook_id: str) -> Path:
    """Name the file of a codebook's item codes."""
    return home.feast / "offline" / codebook_id / "item_codes.parquet"


def history_path(home: Home, codebook_id: str) -> Path:
    """Name the file of the user histories with a codebook's codes."""
    return home.feast / "offline" / codebook_id / "user_histories.parquet"


def statistics_path(home: Home) -> Path:
    """Name the file of item statistics; they are the same under every codebook."""
    return home.feast / "offline" / "item_statistics.parquet"


def item_rows(
    item_ids: Sequence[str], codes: NDArray[np.uint8], codebook_id: str, published_at: datetime
) -> pd.DataFrame:
    """Make one row per item.

    Args:
        item_ids: N item ids, each once.
        codes: uint8 [N, bytes per item].
        codebook_id: the codebook the codes were made with.
        published_at: when the codes began to hold, with its time zone.

    Returns:
        item_id, code (`hymirec.history.pack_codes`), event_timestamp and created.

    Raises:
        DataError: an item id occurs twice, or there are not as many codes as items.
    """
    item_positions(item_ids, codes)
    if published_at.tzinfo is None:
        raise DataError(f"item codes: publication time {published_at} has no time zone")
    return pd.DataFrame(
        {
            ITEM_ID: list(item_ids),
            CODE: pack_codes(codes, codebook_id),
            EVENT_TIMESTAMP: pd.Timestamp(published_at).tz_convert("UTC"),
            CREATED: pd.Timestamp(published_at).tz_convert("UTC"),
        }
    )


def history_rows(
    interactions: pd.DataFrame,
    item_ids: Sequence[str] | pd.Index[str],
    codes: NDArray[np.uint8],
    codebook_id: str,
    written_at: datetime,
) -> pd.DataFrame:
    """Make one row per user, with all of the user's events in order of time.

    Args:
        interactions: canonical interactions (`hymirec.datasets.base.Dataset`); events of one
            second keep the order they stand in.
        item_ids: N item ids, each once.
        codes: uint8 [N, bytes per item], in the order of `item_ids`.
        codebook_id: the codebook the codes were made with.
        written_at: the present time, from which the rows' age counts.

    Returns:
        user_id, history (`hymirec.history.pack`), num_events, event_timestamp (the last event's
        second: what the row says was true from then on) and created (the same; Feast prefers the
        later one among rows of one event time), users in the order they first occur.

    Raises:
        DataError: an interaction has an item that is not in `item_ids`, or no time.
    """
    return packed_histories(build_histories(interactions, item_ids, codes, codebook_id), written_at)


def packed_histories(histories: Mapping[str, History], written_at: datetime) -> pd.DataFrame:
    """Make one row per user of histories that are there; columns as `history_rows`."""
    written = int(written_at.timestamp())
    last_events = pd.to_datetime([h.times[-1] for h in histories.values()], unit="s", utc=True)
    return pd.DataFrame(
        {
            USER_ID: list(histories),
            HISTORY: [pack(replace(one, written_at=written)) for one in histories.values()],
            NUM_EVENTS: list(map(len, histories.values())),
            EVENT_TIMESTAMP: last_events,
            CREATED: last_events,
        }
    )


def write(home: Home, codebook_id: str, items: pd.DataFrame, histories: pd.DataFrame) -> None:
    """Write both files of a codebook, each whole or not at all.

    Args:
        home: the home to write into.
        codebook_id: the codebook the rows were made with.
        items: rows of `item_rows`.
        histories: rows of `history_rows`.

    Raises:
        DataError: a column is missing or has values of another type than its schema says.
    """
    write_table(item_path(home, codebook_id), items, ITEM_SCHEMA)
    write_table(history_path(home, codebook_id), histories, HISTORY_SCHEMA)


def write_statistics(home: Home, statistics: pd.DataFrame) -> None:
    """Write the item statistics (`features.statistics`), whole or not at all. Raises as `write`."""
    write_table(statistics_path(home), statistics, STATISTICS_SCHEMA)


def read_histories(
    home: Home, codebook_id: str, user_ids: Collection[str] | None = None
) -> dict[str, History]:
    """Read published histories by user id, in the order of the file.

    Args:
        home: the home to read from.
        codebook_id: the codebook of the codes.
        user_ids: whose; everybody's where nobody is named. Users who are not in the file are left
            out.

    Raises:
        VersionError: none were published with this codebook, or the file holds another's.
        DataError: the file is damaged.
    """
    path = history_path(home, codebook_id)
    found = _read_rows(path, USER_ID, HISTORY, user_ids, f"histories of codebook {codebook_id}")
    return {user_id: unpack(blob, codebook_id) for user_id, blob in found}


def group_sizes(home: Home, codebook_id: str) -> list[int]:
    """Count the users in each group of rows of the published histories. Raises as `read_groups`."""
    with _opened_histories(home, codebook_id) as file:
        return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def read_groups(home: Home, codebook_id: str, groups: Sequence[int]) -> dict[str, History]:
    """Read the histories of some groups of rows by user id, in the order of the file.

    Raises:
        VersionError: none were published with this codebook, or the file holds another's.
        DataError: the file is damaged.
    """
    with _opened_histories(home, codebook_id) as file:
        table = file.read_row_groups(list(groups), columns=[USER_ID, HISTORY])
    users, blobs = table[USER_ID].to_pylist(), table[HISTORY].to_pylist()
    return {user: unpack(blob, codebook_id) for user, blob in zip(users, blobs, strict=True)}


@contextmanager
def _opened_histories(home: Home, codebook_id: str) -> Iterator[pq.ParquetFile]:
    path = history_path(home, codebook_id)
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError as error:
        raise VersionError(f"no histories of codebook {codebook_id}: {path} is missing") from error
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from error


def read_user_ids(home: Home, codebook_id: str) -> list[str]:
    """Read who has a published history. Raises as `read_histories`."""
    path = history_path(home, codebook_id)
    return [user for user, _ in _read_rows(path, USER_ID, NUM_EVENTS, None, "histories")]


def read_item_codes(
    home: Home, codebook_id: str, item_ids: Collection[str] | None = None, *, since: bool = True
) -> dict[str, NDArray[np.uint8]]:
    """Read published codes, uint8 [bytes per item], by item id.

    With `since`, those of items published since have the last word. Other arguments and errors as
    `read_histories`.
    """
    path = item_path(home, codebook_id)
    rows = _read_rows(path, ITEM_ID, CODE, item_ids, f"item codes of codebook {codebook_id}")
    found = {item_id: unpack_code(blob, codebook_id) for item_id, blob in rows}
    later = additions.read(additions.publications(home.catalogue / codebook_id)) if since else None
    if later is not None:
        pairs = zip(later.item_ids, later.codes, strict=True)
        found |= {item: code for item, code in pairs if item_ids is None or item in item_ids}
    return found


def _read_rows(
    path: Path, key: str, value: str, wanted: Collection[str] | None, what: str
) -> Iterator[tuple[str, Any]]:
    """Give keys and values of a file, group of rows by group, so that one is held at a time."""
    try:
        with pq.ParquetFile(path) as file:
            keys = None if wanted is None else pa.array(sorted(wanted), pa.string())
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=[key])[key]
                mask = None if keys is None else pc.is_in(ids, value_set=keys)
                if mask is not None and not pc.any(mask).as_py():
                    continue
                values = file.read_row_group(group, columns=[value])[value]
                if mask is not None:
                    ids, values = ids.filter(mask), values.filter(mask)
                yield from zip(ids.to_pylist(), values.to_pylist(), strict=True)
    except FileNotFoundError as error:
        raise VersionError(f"no {what}: {path} is missing") from error
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from error


def write_table(path: Path, rows: pd.DataFrame, schema: pa.Schema) -> None:
    """Write rows by a temporary file beside the target: a reader never meets half a file.

    Raises:
        DataError: a column is missing or has values of another type than its schema says.
    """
    try:
        table = pa.Table.from_pandas(rows, schema=schema, preserve_index=False)
    except (pa.ArrowException, KeyError) as error:
        raise DataError(f"{path.name}: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, temporary, row_group_size=ROWS_PER_GROUP)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
