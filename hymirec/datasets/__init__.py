"""Data sets of every kind, in one canonical form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hymirec.datasets import movielens, tabular
from hymirec.datasets.base import Dataset
from hymirec.datasets.canonical import read, write
from hymirec.errors import DataError

__all__ = ["Dataset", "load", "read", "source_files", "write"]

_SHOWN_FILES = 8
_LOOKED_FOR = (
    "interactions.parquet or .csv with items.parquet or .csv (your own data), "
    "or ratings.csv with movies.csv, or ratings.dat with movies.dat (MovieLens)"
)

_Loader = Callable[[Path, Path, str], Dataset]


def load(path: Path) -> Dataset:
    """Read the data set in a folder, of whichever kind its files say it is.

    Raises:
        DataError: the folder holds no data set or more than one, or one of its files is empty,
            lacks a column, or holds an id or a time that cannot be read.
    """
    loader, events, items = _found(path)
    return loader(events, items, Path(path).resolve().name)


def source_files(path: Path) -> tuple[Path, Path]:
    """Name the files that `load` reads, of interactions and of items.

    Raises:
        DataError: the folder holds no data set or more than one.
    """
    _, events, items = _found(path)
    return events, items


def _found(path: Path) -> tuple[_Loader, Path, Path]:
    path = Path(path)
    if not path.is_dir():
        what = "a file: give the folder it lies in" if path.exists() else "no such folder"
        raise DataError(f"{path}: {what}")
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    found = _pairs(path, names)
    if not found:
        shown = ", ".join(names[:_SHOWN_FILES]) or "nothing"
        shown += f" and {len(names) - _SHOWN_FILES} more" if len(names) > _SHOWN_FILES else ""
        raise DataError(f"{path}: no data set here: looked for {_LOOKED_FOR}; found {shown}")
    if len(found) > 1:
        pairs = " and ".join(f"{one.name} with {two.name}" for _, one, two in found)
        raise DataError(f"{path}: more than one data set here: {pairs}; keep one of them")
    return found[0]


def _pairs(path: Path, names: list[str]) -> list[tuple[_Loader, Path, Path]]:
    """List each loader that finds both of its files, with these files."""
    found: list[tuple[_Loader, Path, Path]] = []
    suffixes = (".parquet", ".csv")
    for events in [f"interactions{suffix}" for suffix in suffixes]:
        for items in [f"items{suffix}" for suffix in suffixes]:
            if events in names and items in names:
                found.append((tabular.load, path / events, path / items))
    for suffix in (".csv", ".dat"):
        ratings, movies = f"ratings{suffix}", f"movies{suffix}"
        if ratings in names and movies in names:
            found.append((movielens.load, path / ratings, path / movies))
    return found
