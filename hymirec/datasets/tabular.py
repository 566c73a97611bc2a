"""A user's own data: interactions and items as parquet or CSV."""

from __future__ import annotations

from pathlib import Path

from hymirec.datasets.base import Dataset
from hymirec.datasets.canonical import assemble
from hymirec.datasets.source import Source, read_csv, read_parquet


def load(interactions: Path, items: Path, name: str) -> Dataset:
    """Read interactions (user_id, item_id, timestamp) and items (item_id, title).

    Other columns are kept. The suffix tells the format of each file.

    Raises:
        DataError: see `hymirec.datasets.load`.
    """
    return assemble(name, read_file(interactions), read_file(items))


def read_file(path: Path) -> Source:
    """Read one file."""
    return read_parquet(path) if path.suffix == ".parquet" else read_csv(path)
