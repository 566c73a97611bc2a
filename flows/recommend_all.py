"""Everybody's recommendations to one parquet file, with bounded memory.

Users come in shards; each shard's lists are a file of their own beside the target until all are
there. Interrupted, the next call takes the shards that are done; the target appears whole or not
at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from prefect import flow

from features.offline import history_path
from features.scan import HistoryScan
from flows.registry.served import ServedVersion, served_versions
from flows.runtime.notify import HOOKS
from flows.runtime.settings import CHAMPION
from flows.runtime.shards import each_shard
from flows.steps.results import measured
from hymirec.additions import publications, read
from hymirec.batch import LISTS_SCHEMA, SERVED_BY, recommend_many
from hymirec.errors import UsageError, VersionError
from hymirec.home import Home
from hymirec.package import RecommenderPackage
from hymirec.schema import ITEM_ID
from hymirec.sharding import claim, groups_of_rows

log = logging.getLogger(__name__)

GROUPS_PER_SHARD = 4
"""Of rows of the published file, 1,000 users each: what an interruption can cost."""
NEWCOMERS_PER_SHARD = 4000


@dataclass(frozen=True)
class AllRecommended:
    """What was written; `users` are those served in full and those given the popular items."""

    path: str
    model_version: str
    codebook_id: str
    k: int
    users: int
    popular: int
    seconds: float
    peak_mb: float | None
    resumed_shards: int

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def recommend_all(
    home: Home, path: Path, *, k: int = 10, exclude_seen: bool = True, alias: str = CHAMPION
) -> AllRecommended:
    """Write the lists of all users, `hymirec.batch.LISTS_SCHEMA`, one row a user.

    The users are those with a published history, in its order, and then those of whom the event
    log alone knows. A list is what the server would answer with at the moment its shard is read.

    Args:
        home: whose users and model.
        path: the file; one that is there is replaced when the new one is complete.
        k: items of a list.
        exclude_seen: leave out items of a user's history.
        alias: of the version that recommends.

    Raises:
        UsageError: nothing is served under the alias, or the file cannot be written.
        VersionError: the version's codebook is not published in this home.
        HymirecError: a store cannot be read.
    """
    (served,) = served_versions(home, alias)
    asked = _asked(home, served, k, exclude_seen)
    parts = path.with_name(f".{path.name}.parts")
    try:
        claim(parts, asked)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    with measured() as cost:
        shards, sizes = _shards(home, served, asked, parts)
        todo = [place for place, shard in enumerate(shards) if not shard["part"].exists()]
        if len(todo) < len(shards):
            log.info("recommend-all: %d of %d shards are there already",
                     len(shards) - len(todo), len(shards))  # fmt: skip
        for _ in each_shard(
            "recommend-all", recommend_shard, [shards[place] for place in todo],
            sizes=[sizes[place] for place in todo], what="users",
        ):  # fmt: skip
            pass
        users, popular = _join([shard["part"] for shard in shards], path, asked)
    shutil.rmtree(parts)
    log.info("recommend-all: %s users in %s, version %s", f"{users:,}", path,
             served.version.version)  # fmt: skip
    return AllRecommended(
        str(path), str(served.version.version), served.codebook_id, k, users, popular,
        cost["seconds"], cost.get("peak_mb"), len(shards) - len(todo),
    )  # fmt: skip


@flow(name="recommend-all", **HOOKS)
def recommend_all_flow(
    home: Path, path: Path, k: int = 10, exclude_seen: bool = True, alias: str = CHAMPION
) -> AllRecommended:
    """`recommend_all` as a flow, see there."""
    return recommend_all(Home.at(home), path, k=k, exclude_seen=exclude_seen, alias=alias)


def recommend_shard(
    home: Path, package: Path, published: Sequence[Path], asked: dict[str, Any],
    groups: Sequence[int], newcomers: Sequence[str], part: Path,
) -> Path:  # fmt: skip
    """Write one shard's lists, whole or not at all.

    Args:
        home: root of the home.
        package: directory of the model's package.
        published: publications of items since.
        asked: `k`, `exclude_seen` and `codebook_id`.
        groups: of rows of the published histories; or
        newcomers: users of whom the log alone knows.
        part: where to.
    """
    model = _package(package, tuple(published))
    scan = HistoryScan(Home.at(home), asked["codebook_id"])
    try:
        histories = scan.groups(groups) if groups else scan.of_newcomers(newcomers)
    finally:
        scan.close()
    users = list(histories) if groups else list(newcomers)
    lists = recommend_many(
        model, [histories.get(user) for user in users], asked["k"],
        exclude_seen=asked["exclude_seen"],
    )  # fmt: skip
    table = lists.table(users, model.items[ITEM_ID].to_numpy(dtype=object))
    temporary = part.with_name(f".{part.name}.{os.getpid()}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(part)
    return part


@lru_cache(maxsize=1)
def _package(directory: Path, published: tuple[Path, ...]) -> RecommenderPackage:
    """A worker reads the model once."""
    package = RecommenderPackage.load(directory)
    additions = read(published)
    return package if additions is None else package.extended(additions)


def _asked(home: Home, served: ServedVersion, k: int, exclude_seen: bool) -> dict[str, Any]:
    """All that the lists depend on but clicks that come meanwhile."""
    try:
        file = history_path(home, served.codebook_id).stat()
    except FileNotFoundError as error:
        raise VersionError(
            f"no histories of codebook {served.codebook_id}: {error.filename} is missing"
        ) from error
    published = [path.name for path in publications(home.catalogue / served.codebook_id)]
    content = [str(served.version.source), published, file.st_size, file.st_mtime_ns]
    return {
        "model_version": str(served.version.version),
        "codebook_id": served.codebook_id,
        "k": k,
        "exclude_seen": exclude_seen,
        "digest": hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12],
    }


def _shards(
    home: Home, served: ServedVersion, asked: dict[str, Any], parts: Path
) -> tuple[list[dict[str, Any]], list[int]]:
    """Arguments of `recommend_shard`, and how many users each has."""
    scan = HistoryScan(home, served.codebook_id)
    try:
        groups = [
            list(range(first, min(first + GROUPS_PER_SHARD, scan.num_groups)))
            for first in range(0, scan.num_groups, GROUPS_PER_SHARD)
        ]
        sizes = [sum(scan.sizes[group] for group in some) for some in groups]
        newcomers = list(scan.newcomers(NEWCOMERS_PER_SHARD))
    finally:
        scan.close()
    common = {
        "home": home.root,
        "package": served.package,
        "published": publications(home.catalogue / served.codebook_id),
        "asked": asked,
    }
    shards = [
        common | {"groups": some, "newcomers": [], "part": parts / f"{groups[place][0]:08}.parquet"}
        for place, some in enumerate(groups)
    ]
    for users in newcomers:
        # By name: users who come while an interrupted call rests make other shards.
        name = hashlib.sha256("\0".join(users).encode()).hexdigest()[:16]
        shards.append(
            common | {"groups": [], "newcomers": users, "part": parts / f"new-{name}.parquet"}
        )
    return shards, sizes + [len(users) for users in newcomers]


def _join(parts: Sequence[Path], path: Path, asked: dict[str, Any]) -> tuple[int, int]:
    """Put the shards into one file, a group of rows at a time; users, and those given the popular.

    A reader never meets half a file.
    """
    schema = LISTS_SCHEMA.with_metadata({key: json.dumps(value) for key, value in asked.items()})
    temporary = path.with_name(f".{path.name}.tmp")
    users = popular = 0
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for table in groups_of_rows(parts):
                writer.write_table(table.cast(schema))
                users += table.num_rows
                popular += pc.sum(pc.equal(table[SERVED_BY], "popular")).as_py() or 0
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return users, popular
