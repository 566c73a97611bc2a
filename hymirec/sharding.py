"""Work in shards: a function called for each, one after the other or by others on a shared disk.

What is handed on are paths and small values. A shard leaves a file, so that an interruption costs
the shards in work.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from hymirec.long_work import lines

MANIFEST = "manifest.json"


class EachShard(Protocol):
    """Has a function called for each shard; results come in the shards' order."""

    def __call__(
        self,
        name: str,
        work: Callable[..., Any],
        shards: Sequence[Mapping[str, Any]],
        *,
        sizes: Sequence[int] | None = None,
        what: str = "shards",
    ) -> Iterator[Any]:
        """Do the work; see `one_by_one`, whose arguments these are."""


def one_by_one(
    name: str,
    work: Callable[..., Any],
    shards: Sequence[Mapping[str, Any]],
    *,
    sizes: Sequence[int] | None = None,
    what: str = "shards",
) -> Iterator[Any]:
    """Call a function for each shard here, one after the other.

    Args:
        name: of the work, in progress lines.
        work: a function of a module, so that others may import it.
        shards: its keyword arguments.
        sizes: what progress counts; one each by default.
        what: that is.
    """
    results = (work(**shard) for shard in shards)
    return counted(name, results, sizes or [1] * len(shards), what)


def counted(name: str, results: Iterator[Any], sizes: Sequence[int], what: str) -> Iterator[Any]:
    """Pass results on, and tell how far they have come."""
    tell = lines(name, what)
    done, total = 0, sum(sizes)
    for size, result in zip(sizes, results, strict=True):
        done += size
        tell(done, total)
        yield result


def claim(parts: Path, asked: Mapping[str, Any]) -> None:
    """Leave in a folder the parts of the same question only, and note the question there.

    Args:
        parts: the folder.
        asked: all that the parts depend on, as JSON values.

    Raises:
        OSError: the folder cannot be made.
    """
    manifest = parts / MANIFEST
    if not manifest.exists() or json.loads(manifest.read_text()) != asked:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        temporary = manifest.with_suffix(".tmp")
        temporary.write_text(json.dumps(asked))
        temporary.replace(manifest)


def groups_of_rows(parts: Sequence[Path]) -> Iterator[pa.Table]:
    """Read parquet files one after the other, a group of rows at a time."""
    for part in parts:
        with pq.ParquetFile(part) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)
