"""The first step: files of any supported form to canonical tables in the home."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from flows.steps.results import StepResult, find_step, forget, run_step, source_digest
from hymirec.datasets import Dataset, load, read, source_files, write
from hymirec.datasets.canonical import interactions_path
from hymirec.errors import DataError
from hymirec.home import Home
from hymirec.schema import USER_ID

log = logging.getLogger(__name__)

DATA = "data"


@dataclass(frozen=True)
class DataRef:
    """Where a data set's canonical tables lie; this is what tasks hand on."""

    name: str
    directory: Path
    digest: str

    @property
    def interactions(self) -> Path:
        """File of the interactions."""
        return interactions_path(self.directory)

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
    return read_ref(home, ingest_step(home, source, min_events=min_events))


def ingest_step(home: Home, source: Path, *, min_events: int = 1) -> StepResult:
    """`ingest` as a step, which files whose bytes are the same cost nothing but reading these."""

    def work(output: Path, checkpoints: Path) -> None:
        dataset = load(source)
        if min_events > 1:
            dataset = dataset.with_frequent_users(min_events)
            if dataset.interactions.empty:
                raise DataError(f"{source}: no user has {min_events} events")
        ref = keep(home, dataset)
        log.info(
            "data: %s, %d interactions of %d users, %d items, digest %s",
            dataset.name, len(dataset.interactions), dataset.interactions[USER_ID].nunique(),
            len(dataset.items), ref.digest,
        )  # fmt: skip
        write_ref(ref, output)

    inputs = {
        "name": source.resolve().name,
        "files": {path.name: _digest(path) for path in source_files(source)},
        "min_events": min_events,
        "code": source_digest(Path(__file__)),
    }
    done = find_step(home, DATA, inputs)
    if done and not read_ref(home, done).directory.exists():
        forget(done)
    return run_step(home, DATA, inputs, work)


def keep(home: Home, dataset: Dataset) -> DataRef:
    """Store a data set under its digest, unless it is there."""
    digest = dataset.digest()
    directory = home.data / digest
    if not directory.exists():
        write(dataset, directory)
    return DataRef(dataset.name, directory, digest)


def write_ref(ref: DataRef, directory: Path) -> None:
    """Leave in a step's directory which data set it is about; `read_ref` finds it."""
    (directory / "data.json").write_text(json.dumps({"name": ref.name, "digest": ref.digest}))


def read_ref(home: Home, step: StepResult) -> DataRef:
    """The data set that a step left a note of."""
    note = json.loads((step.directory / "data.json").read_text())
    return DataRef(note["name"], home.data / note["digest"], note["digest"])


def _digest(path: Path) -> str:
    """Digest of a file's bytes, or of those of all files in a folder of parts."""
    parts = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.name.encode())
        try:
            with part.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"{part}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()
