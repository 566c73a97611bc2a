"""A folder of files that belong together, sealed: a file changed since is found before it is read.

    digests.json    {"items.parquet": "<SHA-256>", …} of every other file in the folder

This guards against damage, not against an enemy: who can write the files can write their digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from safetensors import SafetensorError

from hymirec.errors import DataError

DIGESTS = "digests.json"


def seal(directory: Path) -> None:
    """Write down the digest of every file that is there."""
    (directory / DIGESTS).write_text(json.dumps(_digests(directory), indent=2))


def check_seal(directory: Path) -> None:
    """Compare every file with its digest; a folder of before there were any passes.

    Raises:
        DataError: a file is missing, was changed or came later; the message names it.
    """
    path = directory / DIGESTS
    if not path.exists():
        return
    with naming_the_place(directory):
        written = json.loads(path.read_text())
        found = _digests(directory)
        if not isinstance(written, dict):
            raise ValueError(f"{DIGESTS} is damaged")
        for name in sorted(written.keys() | found.keys()):
            if written.get(name) != found.get(name):
                what = "is missing" if name not in found else "is not the file that was written"
                raise ValueError(f"{name} {what}")


@contextmanager
def naming_the_place(directory: Path) -> Iterator[None]:
    """Turn what reading files of a folder may raise into one line that names the folder.

    Raises:
        DataError: in its place.
    """
    try:
        yield
    except (
        AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError,
        SafetensorError, pa.ArrowException,
    ) as error:  # fmt: skip
        # What is not there, no JSON, another shape, other columns, FAISS's and torch's own.
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise DataError(f"{directory} cannot be read: {type(error).__name__}: {reason}") from error


def _digests(directory: Path) -> dict[str, str]:
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / DIGESTS:
            with path.open("rb") as file:
                name = path.relative_to(directory).as_posix()
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
