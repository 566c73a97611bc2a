"""A file of items alone: what is published between two trainings."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hymirec.datasets import columns, movielens, tabular
from hymirec.datasets.source import Source
from hymirec.errors import DataError
from hymirec.schema import ITEM_COLUMNS, ITEM_ID, SOURCE_ROW, TITLE


def load_items(path: Path) -> pd.DataFrame:
    """Read items as parquet or CSV, or MovieLens's movies.csv or movies.dat.

    Returns:
        item_id and title, as in `Dataset.items`, and all further columns as text, null where empty.

    Raises:
        DataError: the file cannot be read, has no items, lacks a column, or has a row without id
            or title, or an id twice.
    """
    if not path.is_file():
        what = "a folder, not a file of items" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}")
    movies = path.name in ("movies.csv", "movies.dat")
    source = movielens.read_movies(path) if movies else tabular.read_file(path)
    source.require(ITEM_COLUMNS)
    others = [n for n in source.table.column_names if n not in (*ITEM_COLUMNS, SOURCE_ROW)]
    items = pd.DataFrame(
        {
            ITEM_ID: columns.ids(source, ITEM_ID),
            TITLE: columns.texts(source, TITLE),
            **{name: columns.texts(source, name) for name in others},
        }
    )
    _refuse(source, items[ITEM_ID].isna(), "no item_id")
    _refuse(source, items[TITLE].fillna("").str.strip() == "", "no title")
    twice = items[ITEM_ID].duplicated()
    if twice.any():
        _refuse(source, twice, f"item_id {items[ITEM_ID][twice].iloc[0]!r} a second time")
    return items


def _refuse(source: Source, bad: pd.Series, what: str) -> None:
    if bad.any():
        more = f" (and {bad.sum() - 1} more such rows)" if bad.sum() > 1 else ""
        raise DataError(f"{source.place(int(bad.to_numpy().argmax()))}: {what}{more}")
