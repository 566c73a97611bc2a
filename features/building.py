"""Building the file of user histories in shards of users, in memory that does not grow with them.

A shard is a stretch of the canonical table. That is in order of users, so that none is cut, and a
shard ends where a group of rows of the file does: the file is the same, byte for byte, whoever
built which of its shards.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.offline import (
    HISTORY_SCHEMA,
    ROWS_PER_GROUP,
    history_path,
    history_rows,
    write_table,
)
from hymirec.errors import DataError
from hymirec.history import MAGIC
from hymirec.home import Home
from hymirec.inputs import item_positions
from hymirec.schema import ITEM_ID, TIMESTAMP, USER_ID
from hymirec.sharding import EachShard, claim, groups_of_rows, one_by_one

EVENTS_PER_SHARD = 1_000_000
"""At least, but in the last shard: what an interruption can cost."""


def build_histories_file(
    home: Home, codebook_id: str, interactions: Path, item_ids: Sequence[str],
    codes: NDArray[np.uint8], at: datetime, each_shard: EachShard = one_by_one,
) -> None:  # fmt: skip
    """Write the file of a codebook's user histories, whole or not at all.

    Shards that an interrupted call left of the same are taken as they are.

    Args:
        home: to write into.
        codebook_id: the codebook the codes were made with.
        interactions: file of the canonical interactions (`hymirec.datasets.canonical`).
        item_ids: N item ids, each once.
        codes: uint8 [N, bytes per item], in the order of `item_ids`.
        at: the present time, from which the rows' age counts.
        each_shard: has the shards built.

    Raises:
        DataError: as `features.offline.history_rows`; or the interactions cannot be read, or are
            not in order of users.
    """
    target = history_path(home, codebook_id)
    parts = target.with_name(f".{target.name}.parts")
    shards = cut_at_users(interactions)
    digest = _digest(interactions, item_ids, codes)
    claim(parts, {"digest": digest})
    _write_items(parts, item_ids, codes)
    common = {"interactions": interactions, "items": parts, "digest": digest}
    common |= {"codebook_id": codebook_id, "at": at}
    files = [parts / f"{start:014}.parquet" for start, _ in shards]
    todo = [place for place, file in enumerate(files) if not file.exists()]
    asked = [common | {"rows": shards[place], "part": files[place]} for place in todo]
    sizes = [shards[place][1] - shards[place][0] for place in todo]
    for _ in each_shard("histories", build_shard, asked, sizes=sizes, what="interactions"):
        pass
    temporary = target.with_name(f".{target.name}.tmp")
    with pq.ParquetWriter(temporary, HISTORY_SCHEMA) as writer:
        for table in groups_of_rows(files):
            writer.write_table(table)
    temporary.replace(target)
    shutil.rmtree(parts)


def build_shard(
    interactions: Path, rows: tuple[int, int], items: Path, digest: str, codebook_id: str,
    at: datetime, part: Path,
) -> None:  # fmt: skip
    """Build the histories of one shard and write them, whole or not at all.

    Args:
        interactions: as `build_histories_file`.
        rows: the shard's first there, and the one after its last.
        items: folder of item ids and codes.
        digest: of all that is asked, by which a worker knows items that it has read.
        codebook_id: as `build_histories_file`.
        at: likewise.
        part: where to.
    """
    item_ids, codes = _read_items(items, digest)
    histories = history_rows(_read_rows(interactions, *rows), item_ids, codes, codebook_id, at)
    write_table(part, histories, HISTORY_SCHEMA)


def cut_at_users(interactions: Path) -> list[tuple[int, int]]:
    """Cut a table of interactions into shards: first row of each, and the one after its last.

    Raises:
        DataError: it cannot be read, has no rows, or is not in order of users.
    """
    cuts, num_users, num_rows, last = [0], 0, 0, None
    with _opened(interactions) as file:
        if not file.metadata.num_rows:
            raise DataError("user histories: there are no interactions")
        for group in range(file.num_row_groups):
            users = file.read_row_group(group, columns=[USER_ID])[USER_ID].combine_chunks()
            # The first user of all has nobody before.
            before = pa.concat_arrays([pa.array([last], users.type), users[:-1]])
            if users.null_count or pc.any(pc.less(users, before)).as_py():
                raise DataError(f"{interactions}: not in order of users")
            is_first = pc.fill_null(pc.not_equal(users, before), True)
            starts = np.flatnonzero(is_first.to_numpy(zero_copy_only=False))
            for place in starts[-num_users % ROWS_PER_GROUP :: ROWS_PER_GROUP].tolist():
                if num_rows + place - cuts[-1] >= EVENTS_PER_SHARD:
                    cuts.append(num_rows + place)
            num_users, num_rows, last = num_users + len(starts), num_rows + len(users), users[-1]
    return list(zip(cuts, [*cuts[1:], num_rows], strict=True))


def _read_rows(interactions: Path, start: int, stop: int) -> pd.DataFrame:
    """Read a stretch of rows: of the file, the groups that it lies in."""
    with _opened(interactions) as file:
        ends = np.cumsum([file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)])
        first, last = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
        columns = [USER_ID, ITEM_ID, TIMESTAMP]
        table = file.read_row_groups(list(range(first, last + 1)), columns=columns)
    before = int(ends[first - 1]) if first else 0
    return table.slice(start - before, stop - start).to_pandas()


def _write_items(folder: Path, item_ids: Sequence[str], codes: NDArray[np.uint8]) -> None:
    np.save(folder / "codes.npy", codes)
    pq.write_table(pa.table({ITEM_ID: pa.array(item_ids, pa.string())}), folder / "ids.items")


@lru_cache(maxsize=1)
def _read_items(folder: Path, digest: str) -> tuple[pd.Index[str], NDArray[np.uint8]]:
    """Items of a digest, read and their places looked up once by a process of many shards."""
    codes = np.load(folder / "codes.npy")
    item_ids = pq.read_table(folder / "ids.items")[ITEM_ID].to_pylist()
    return item_positions(item_ids, codes), codes


def _digest(interactions: Path, item_ids: Sequence[str], codes: NDArray[np.uint8]) -> str:
    """Of all that shards depend on; of the interactions by when they were written."""
    file = interactions.stat()
    asked = (str(interactions), file.st_size, file.st_mtime_ns, EVENTS_PER_SHARD, MAGIC)
    digest = hashlib.sha256("\0".join([str(asked), *item_ids]).encode())
    digest.update(str(codes.shape).encode() + codes.tobytes())
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable parquet file: {error}") from error
