"""MovieLens as GroupLens publishes it: the CSV files of newer sets, the '::' files of older ones.

Every rating counts as an interaction; its value is kept as `rating`.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from hymirec.datasets.base import Dataset
from hymirec.datasets.canonical import assemble
from hymirec.datasets.source import Source, read_csv, read_dat
from hymirec.schema import ITEM_ID, USER_ID

_RATING_COLUMNS = ("userId", "movieId", "rating", "timestamp")
_MOVIE_COLUMNS = ("movieId", "title", "genres")
_NAMES = {"userId": USER_ID, "movieId": ITEM_ID}
_NO_GENRES = "(no genres listed)"


def load(ratings: Path, movies: Path, name: str) -> Dataset:
    """Read ratings and movies; genres become one text such as 'Comedy, Romance'.

    Raises:
        DataError: see `hymirec.datasets.load`.
    """
    ratings_source = _read(ratings, _RATING_COLUMNS)
    return assemble(name, ratings_source.renamed(_NAMES), read_movies(movies))


def read_movies(path: Path) -> Source:
    """Read movies alone, under the schema's column names."""
    return _with_genres(_read(path, _MOVIE_COLUMNS))


def _read(path: Path, columns: tuple[str, ...]) -> Source:
    source = read_dat(path, columns) if path.suffix == ".dat" else read_csv(path)
    source.require(columns)
    return source


def _with_genres(movies: Source) -> Source:
    genres = pc.fill_null(movies.table.column("genres"), "")
    genres = pc.replace_substring(genres, _NO_GENRES, "")
    genres = pc.replace_substring(genres, "|", ", ")
    index = movies.table.column_names.index("genres")
    table = movies.table.set_column(index, "genres", genres)
    return Source(movies.file, movies.unit, table, movies.rows).renamed(_NAMES)
