"""What the store holds, for people: codebooks, users and items, decoded, with age and version."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.offline import CODE, EVENT_TIMESTAMP, history_path, item_path
from features.online import FeatureReader
from hymirec.errors import DataError, VersionError
from hymirec.history import unpack_code
from hymirec.home import Home
from hymirec.schema import ITEM_ID, TITLE


@dataclass(frozen=True)
class PublishedCodebook:
    """A codebook's offline files, which its rows online were made of.

    Attributes:
        codebook_id: whose.
        num_users: users with a published history.
        num_items: items with a published code.
        bytes_per_item: of a packed code, without its header.
        published_at: when.
    """

    codebook_id: str
    num_users: int
    num_items: int
    bytes_per_item: int
    published_at: datetime


def describe_codebook(home: Home, codebook_id: str) -> PublishedCodebook:
    """Look at a codebook's files; only a few rows are read.

    Raises:
        VersionError: a file is missing.
        DataError: a file is damaged.
    """
    paths = item_path(home, codebook_id), history_path(home, codebook_id)
    try:
        with pq.ParquetFile(paths[0]) as items, pq.ParquetFile(paths[1]) as histories:
            first = next(items.iter_batches(1, columns=[CODE, EVENT_TIMESTAMP])).to_pylist()[0]
            return PublishedCodebook(
                codebook_id,
                num_users=histories.metadata.num_rows,
                num_items=items.metadata.num_rows,
                bytes_per_item=len(unpack_code(first[CODE], codebook_id)),
                published_at=first[EVENT_TIMESTAMP],
            )
    except FileNotFoundError as error:
        raise VersionError(f"codebook {codebook_id}: {error.filename} is missing") from error
    except (pa.ArrowException, StopIteration) as error:
        raise DataError(f"codebook {codebook_id}: a file in {paths[0].parent} is damaged or "
                        f"empty: {error}") from error  # fmt: skip


def show_user(
    home: Home, reader: FeatureReader, user_id: str, *, last: int, now: datetime
) -> dict[str, Any] | None:
    """Decode a user's row online as JSON values; None where there is none.

    Args:
        home: where titles are looked up.
        reader: of the codebook.
        user_id: the user.
        last: how many of the latest events to give, oldest first.
        now: what the age is counted to.
    """
    row = reader.read_user(user_id)
    if row is None:
        return None
    recent = row.history.tail(last)
    titles = find_titles(home, recent.item_ids)
    times = [_text(second) for second in recent.times.tolist()]
    events = zip(recent.item_ids, times, recent.codes, strict=True)
    return {
        "codebook_id": row.history.codebook_id,
        "num_events": len(row.history),
        "first_event": _text(int(row.history.times[0])),
        "last_event": _text(int(row.history.times[-1])),
        "written_at": _text(row.history.written_at),
        "age_seconds": row.age_seconds(now),
        "bytes_per_item": int(row.history.codes.shape[1]),
        "events": [
            {
                "item_id": item,
                "title": titles.get(item, ""),
                "time": time,
                "code": bytes(code).hex(),
            }
            for item, time, code in events
        ],
    }


def show_item(reader: FeatureReader, item_id: str, now: datetime) -> dict[str, Any] | None:
    """Decode an item's code and statistics as JSON values; None where the store has neither."""
    code = reader.read_item_codes([item_id]).get(item_id)
    try:
        statistics = reader.read_item_statistics([item_id]).get(item_id)
    except VersionError:  # published by an earlier version
        statistics = None
    if code is None and statistics is None:
        return None
    shown: dict[str, Any] = {
        "codebook_id": reader.codebook_id,
        "code": "" if code is None else bytes(code).hex(),
        "bytes_per_item": 0 if code is None else len(code),
        "statistics": None,
    }
    if statistics is not None:
        shown["statistics"] = {
            "popularity": statistics.popularity,
            "num_users": statistics.num_users,
            "first_seen": _text(statistics.first_seen),
            "last_seen": _text(statistics.last_seen),
            "counted_at": _text(statistics.counted_at),
            "age_seconds": now.timestamp() - statistics.counted_at,
        }
    return shown


def find_titles(home: Home, item_ids: Iterable[str]) -> dict[str, str]:
    """Look up titles in the canonical tables of a home and in what was published since.

    The newest file has the last word.
    """
    wanted = pa.array(sorted(set(item_ids)), pa.string())
    found: dict[str, str] = {}
    files = [*home.data.glob("*/items.parquet"), *home.catalogue.glob("*/[0-9]*.parquet")]
    for path in sorted(files, key=lambda path: path.stat().st_mtime):
        table = pq.read_table(
            path, columns=[ITEM_ID, TITLE], filters=pc.field(ITEM_ID).isin(wanted)
        )
        pairs = zip(table[ITEM_ID].to_pylist(), table[TITLE].to_pylist(), strict=True)
        found.update((item, title) for item, title in pairs if title)
    return found


def _text(second: int) -> str:
    """A second since 1970 as ISO text; one that no calendar holds as its number."""
    try:
        return datetime.fromtimestamp(second, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return str(second)
