"""The canonical tables: put together from sources, and kept as parquet."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from hymirec.datasets import columns
from hymirec.datasets.base import Dataset
from hymirec.datasets.source import Source
from hymirec.errors import DataError
from hymirec.schema import (
    INTERACTION_COLUMNS,
    ITEM_COLUMNS,
    ITEM_ID,
    SOURCE_ROW,
    TIMESTAMP,
    TITLE,
    USER_ID,
)

_MANIFEST = "dataset.json"
_INTERACTIONS = "interactions.parquet"
_ITEMS = "items.parquet"


def assemble(name: str, interactions: Source, items: Source) -> Dataset:
    """Make a data set of two sources that already use the schema's column names.

    Raises:
        DataError: a column is missing, a table is empty, or an id or time cannot be read.
    """
    interactions.require(INTERACTION_COLUMNS)
    items.require(ITEM_COLUMNS)
    events = pd.DataFrame(
        {
            USER_ID: columns.ids(interactions, USER_ID),
            ITEM_ID: columns.ids(interactions, ITEM_ID),
            TIMESTAMP: columns.times(interactions, TIMESTAMP),
            SOURCE_ROW: interactions.rows,
            **_extras(interactions, INTERACTION_COLUMNS),
        }
    )
    catalogue = pd.DataFrame(
        {
            ITEM_ID: columns.ids(items, ITEM_ID),
            TITLE: columns.texts(items, TITLE),
            SOURCE_ROW: items.rows,
            **_extras(items, ITEM_COLUMNS),
        }
    )
    return Dataset(name, in_order(events), catalogue)


def in_order(interactions: pd.DataFrame) -> pd.DataFrame:
    """Sort by (user_id, timestamp, source_row), nulls last."""
    # Ranks of the few distinct users sort far faster than a million strings.
    users, distinct = pd.factorize(interactions[USER_ID], sort=True)
    users = np.where(users < 0, len(distinct), users)
    stamps = interactions[TIMESTAMP]
    nanoseconds = stamps.to_numpy("datetime64[ns]").view(np.int64)
    nanoseconds = np.where(stamps.isna().to_numpy(), np.iinfo(np.int64).max, nanoseconds)
    order = np.lexsort((interactions[SOURCE_ROW].to_numpy(), nanoseconds, users))
    return interactions.take(order).reset_index(drop=True)


def write(dataset: Dataset, directory: Path) -> None:
    """Store a data set so that `read` brings it back with the same digest.

    The tables appear under `directory` all at once, in place of a data set stored there before;
    an interruption leaves nothing half-written.

    Raises:
        DataError: `directory` is there but holds something else than a stored data set.
    """
    if directory.exists() and not (directory / _MANIFEST).is_file():
        raise DataError(f"{directory}: not a stored data set, so not replaced by one")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        dataset.interactions.to_parquet(new / _INTERACTIONS, index=False)
        dataset.items.to_parquet(new / _ITEMS, index=False)
        (new / _MANIFEST).write_text(json.dumps({"name": dataset.name}) + "\n")
        if directory.exists():
            directory.rename(Path(scratch) / "old")
        new.rename(directory)


def read(directory: Path) -> Dataset:
    """Bring back what `write` stored.

    Raises:
        DataError: nothing is stored there, or it cannot be read.
    """
    try:
        name = json.loads((directory / _MANIFEST).read_text())["name"]
        frames = [_read_frame(directory / file) for file in (_INTERACTIONS, _ITEMS)]
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{directory}: no stored data set can be read there: {reason}") from error
    return Dataset(name, *frames)


def interactions_path(directory: Path) -> Path:
    """Name the file of the interactions that `write` stored, which are in order as `in_order`."""
    return directory / _INTERACTIONS


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write one parquet file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        new = Path(scratch) / path.name
        frame.to_parquet(new, index=False)
        new.replace(path)


def _read_frame(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    # Which of pandas' text types a file comes back as depends on a global option.
    text = {name: columns.TEXT for name in frame if isinstance(frame[name].dtype, pd.StringDtype)}
    return frame.astype(text)


def _extras(source: Source, known: tuple[str, ...]) -> dict[str, pd.Series]:
    names = [n for n in source.table.column_names if n not in known and n != SOURCE_ROW]
    return {name: columns.kept(source, name) for name in names}
