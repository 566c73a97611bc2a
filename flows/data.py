"""The first step: files of any supported form to canonical tables in the home."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from hymirec.datasets import Dataset, load, read, write
from hymirec.errors import DataError
from hymirec.home import Home
from hymirec.schema import USER_ID

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataRef:
    """Where a data set's canonical tables lie; this is what tasks hand on."""

    name: str
    directory: Path
    digest: str

    def read(self) -> Dataset:
        """Load the tables."""
        return read(self.directory)


def ingest(home: Home, source: Path, *, min_events: int = 1) -> DataRef:
    """Read a folder of data and keep its canonical form, once per content.

    Args:
        home: where it is kept.
        source: the folder.
        min_events: users with fewer are left out, and items that then nobody has.

    Raises:
        DataError: see `hymirec.datasets.load`; or no user has so many events.
    """
    dataset = load(source)
    if min_events > 1:
        dataset = dataset.with_frequent_users(min_events)
        if dataset.interactions.empty:
            raise DataError(f"{source}: no user has {min_events} events")
    digest = dataset.digest()
    directory = home.data / digest
    if not directory.exists():
        write(dataset, directory)
    log.info(
        "data: %s, %d interactions of %d users, %d items, digest %s",
        dataset.name, len(dataset.interactions), dataset.interactions[USER_ID].nunique(),
        len(dataset.items), digest,
    )  # fmt: skip
    return DataRef(dataset.name, directory, digest)
