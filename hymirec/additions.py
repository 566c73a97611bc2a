"""Items that came after training: what is published of them, and where.

    <home>/catalogue/<codebook id>/000001.parquet   one file a publication, in their order

Each file appears whole or not at all and never changes, so that a server may look for new ones at
any time. In a later file an item takes the place of what an earlier one says of it.

n items, D width of an item vector, B bytes of a code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hymirec.errors import DataError
from hymirec.schema import ITEM_ID, TITLE

TEXT, VECTOR, CODE = "text", "vector", "code"
CATEGORIES = "categories"
IS_NEW = "is_new"
TEXT_DIGEST = "text_digest"


@dataclass(frozen=True)
class Additions:
    """New items, and items whose text has changed.

    Attributes:
        item_ids: n ids, each once.
        titles: n.
        texts: n, what the encoder read.
        vectors: unit vectors, float32 [n, D].
        codes: uint8 [n, B], of the codebook they are published under.
        categories: of each item; empty where nothing is known of any.
        is_new: whether it was unknown before, or its text changed; by default all were unknown.
    """

    item_ids: list[str]
    titles: list[str]
    texts: list[str]
    vectors: NDArray[np.float32]
    codes: NDArray[np.uint8]
    categories: list[list[str]] = field(default_factory=list)
    is_new: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Give every item its categories, if only none, and its newness."""
        if not self.categories:
            object.__setattr__(self, "categories", [[] for _ in self.item_ids])
        if not self.is_new:
            object.__setattr__(self, "is_new", [True] * len(self.item_ids))

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def digests(self) -> list[str]:
        """Of the texts."""
        return [text_digest(text) for text in self.texts]


def text_digest(text: str) -> str:
    """16 hex digits that tell whether an item's text has changed."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def publications(directory: Path) -> list[Path]:
    """The files of a codebook's directory in their order; none where there is no directory."""
    return sorted(directory.glob("[0-9]*.parquet"))


def publish(directory: Path, additions: Additions) -> Path:
    """Write one publication after those already there; the caller sees to it that nobody else does.

    Returns:
        Its file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    earlier = publications(directory)
    number = int(earlier[-1].stem) + 1 if earlier else 1
    path = directory / f"{number:06}.parquet"
    vectors = np.ascontiguousarray(additions.vectors, dtype=np.float32)
    table = pa.table(
        {
            ITEM_ID: pa.array(additions.item_ids, pa.string()),
            TITLE: pa.array(additions.titles, pa.string()),
            TEXT: pa.array(additions.texts, pa.string()),
            VECTOR: pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
            CODE: pa.array([code.tobytes() for code in additions.codes], pa.binary()),
            CATEGORIES: pa.array(additions.categories, pa.list_(pa.string())),
            IS_NEW: pa.array(additions.is_new, pa.bool_()),
        }
    )
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        pq.write_table(table, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read(paths: Sequence[Path]) -> Additions | None:
    """Read publications, in their order, as one; None of no files.

    Raises:
        DataError: a file is damaged, or they hold vectors of different widths.
    """
    parts = [_read(path) for path in paths]
    if not parts:
        return None
    ids = [item for part in parts for item in part.item_ids]
    # Of each item the last; a dictionary keeps the place where it stood first.
    last = {item: place for place, item in enumerate(ids)}
    rows = list(last.values())
    titles = [title for part in parts for title in part.titles]
    texts = [text for part in parts for text in part.texts]
    categories = [names for part in parts for names in part.categories]
    is_new = [one for part in parts for one in part.is_new]
    once_new = {item for item, one in zip(ids, is_new, strict=True) if one}
    try:
        vectors = np.concatenate([part.vectors for part in parts])
        codes = np.concatenate([part.codes for part in parts])
    except ValueError as error:
        raise DataError(f"{paths[0].parent}: publications do not belong together") from error
    return Additions(
        list(last),
        [titles[row] for row in rows],
        [texts[row] for row in rows],
        vectors[rows],
        codes[rows],
        [categories[row] for row in rows],
        [item in once_new for item in last],
    )


def new_items(path: Path) -> list[str]:
    """Items of a publication that were unknown before it; one of an earlier release calls all so.

    Raises:
        DataError: the file is damaged.
    """
    try:
        table = pq.ParquetFile(path).read([ITEM_ID, IS_NEW])  # a column that is missing is left out
        ids = table[ITEM_ID].to_pylist()
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error
    is_new = table[IS_NEW].to_pylist() if IS_NEW in table.column_names else [True] * len(ids)
    return [item for item, one in zip(ids, is_new, strict=True) if one]


def known_digests(items: pd.DataFrame, additions: Additions | None) -> dict[str, tuple[int, str]]:
    """Item indices and text digests by item id: what is served of a package and publications.

    Args:
        items: item_id and text_digest of a package, in the order of item indices.
        additions: all that was published since.
    """
    known = {
        item: (index, digest)
        for index, (item, digest) in enumerate(
            zip(items[ITEM_ID].tolist(), items[TEXT_DIGEST].tolist(), strict=True), start=1
        )
    }
    if additions is not None:
        for item, digest in zip(additions.item_ids, additions.digests, strict=True):
            index, _ = known.get(item, (len(known) + 1, ""))
            known[item] = (index, digest)
    return known


def _read(path: Path) -> Additions:
    try:
        table = pq.read_table(path)
        vectors = table[VECTOR].combine_chunks()
        codes = table[CODE].to_pylist()
        return Additions(
            table[ITEM_ID].to_pylist(),
            table[TITLE].to_pylist(),
            table[TEXT].to_pylist(),
            vectors.flatten().to_numpy().reshape(len(table), -1).astype(np.float32),
            np.frombuffer(b"".join(codes), np.uint8).reshape(len(table), -1),
            # Publications of earlier versions do not tell.
            table[CATEGORIES].to_pylist() if CATEGORIES in table.column_names else [],
            table[IS_NEW].to_pylist() if IS_NEW in table.column_names else [],
        )
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{path}: not a readable publication: {reason}")
