"""Freeing the disk: results of steps, and fetched artifacts, that nothing has used for long.

Whatever is cleared can be made or fetched again, and is when it is asked for. A home's other rooms
hold what cannot: data, features, events, MLflow's runs and versions.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flows.monitoring.baseline import BASELINE
from flows.registry.served import FETCHED
from flows.runtime.locks import running_since
from flows.steps.data import DATA
from flows.steps.train import EVALUATION, RECOMMENDER
from flows.tasks import PROMOTE
from flows.validation.admission import VALIDATE
from hymirec.home import Home

KEPT = tuple(f"{name}-" for name in (DATA, VALIDATE, PROMOTE, BASELINE))
"""Small, and not to be had again: which data is which, which version was given its alias once (from
which somebody may have gone back), what the histories were when a version was first looked at."""

REPORTS = (RECOMMENDER, EVALUATION)
"""Steps whose reports MLflow has with a pipeline's runs; of benchmarks nobody reads them later."""


@dataclass(frozen=True)
class Unused:
    """Something that can be cleared.

    Attributes:
        path: the directory.
        bytes: on disk.
        last_used: seconds since 1970 UTC.
    """

    path: Path
    bytes: int
    last_used: float


def find_unused(home: Home, days: float) -> list[Unused]:
    """Results, their reports and fetched artifacts that nothing has used for so long, oldest first.

    One that is being made counts as used when it last wrote something. Whatever was used since the
    oldest run that still goes on began may be that run's, which notes a use only when it begins.
    """
    before = min(time.time() - days * 86_400, running_since(home))
    found = []
    for path in _clearable(home):
        with suppress(FileNotFoundError):  # it changes under our eyes: it is in use
            found.append(_measure(path))
    return sorted((one for one in found if one.last_used < before), key=lambda one: one.last_used)


def clear(unused: Unused) -> bool:
    """Remove it, at once: no part of it is ever found.

    Returns:
        Whether it was; not if it has been used, or removed, since it was found.

    Raises:
        OSError: it cannot be removed.
    """
    try:
        if _measure(unused.path).last_used > unused.last_used:
            return False
    except FileNotFoundError:
        return False
    gone = unused.path.with_name(f".{unused.path.name}.gone")
    unused.path.rename(gone)
    shutil.rmtree(gone)
    return True


def _clearable(home: Home) -> Iterator[Path]:
    for room in (home.runs, home.root / FETCHED):
        for path in room.glob("*"):
            if path.is_dir() and not path.name.startswith(KEPT):
                yield path
    for name in REPORTS:
        yield from home.reports.glob(f"{name}-*")


def _measure(path: Path) -> Unused:
    files = [one.stat() for one in (path, *path.rglob("*"))]
    return Unused(path, sum(one.st_size for one in files), max(one.st_mtime for one in files))
