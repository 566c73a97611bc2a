"""Codes, histories and statistics to the feature store: offline files, definitions, online rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features import offline, publication
from features.logs.event_log import EventLog
from features.online import FeatureWriter
from features.statistics import count_items, logged_clicks
from flows.registry.served import served_versions
from flows.runtime.locks import FOREVER, STORES, alone_in
from flows.runtime.shards import each_shard
from flows.steps.data import DataRef
from flows.steps.encode import read_codebook, read_codes
from flows.steps.published import PUBLISH, find_published, note_published_data, publish_inputs
from flows.steps.results import StepResult, find_step, forget, run_step
from hymirec.additions import publications, read
from hymirec.home import Home
from hymirec.schema import ITEM_ID, USER_ID
from hymirec.sharding import EachShard, one_by_one

log = logging.getLogger(__name__)


def publish_features(home: Home, data: DataRef, codebook: StepResult) -> StepResult:
    """Publish a codebook's item codes and user histories beside those already there.

    `flows.steps.published.find_published` tells whether it has to be; cut short, it is made whole.
    """
    items = data.read().items[ITEM_ID].tolist()
    return _publish(home, data, items, read_codes(codebook), read_codebook(codebook).id)


def publish_served(home: Home, data: DataRef, *, again: bool = False) -> list[StepResult]:
    """Publish data under the codebook of every version that an alias names, unless it is.

    Items that a version has not seen are read by its encoder first, as `hymirec items publish`
    does; items of the version that the data lacks stay.

    Raises:
        UsageError: nothing is served.
    """
    # Imported here since PyTorch and the encoder take seconds, which a pipeline has spent already.
    from flows.catalogue.items import publish_items

    versions = served_versions(home)
    found = [
        None if again else find_published(home, data, served.codebook_id) for served in versions
    ]
    if not all(found):
        publish_items(home, data.read().items)
    steps = []
    for served, done in zip(versions, found, strict=True):
        if done:
            log.info("publish: nothing changed under codebook %s", served.codebook_id)
        else:
            items = pd.read_parquet(served.package / "items.parquet")[ITEM_ID].tolist()
            codes = np.load(served.codebook / "codes.npy")
            done = _publish(home, data, items, codes, served.codebook_id)
        steps.append(done)
    return steps


def _publish(
    home: Home, data: DataRef, item_ids: Sequence[str], codes: NDArray[np.uint8], codebook_id: str
) -> StepResult:
    def work(output: Path, checkpoints: Path) -> None:
        _publish_codes(home, data, item_ids, codes, codebook_id, each_shard)

    inputs = publish_inputs(data, codebook_id)
    with alone_in(home, STORES, wait_seconds=FOREVER):  # of the step's folder, too
        if stale := find_step(home, PUBLISH, inputs):
            forget(stale)
        return run_step(home, PUBLISH, inputs, work)


def publish_codes(
    home: Home, data: DataRef, item_ids: Sequence[str], codes: NDArray[np.uint8], codebook_id: str,
    each_shard: EachShard = one_by_one,
) -> None:  # fmt: skip
    """Publish the codes of items, and histories with them; what came since is brought in again.

    Args:
        home: where to.
        data: whose interactions become histories.
        item_ids: N ids, those of the interactions among them.
        codes: uint8 [N, bytes per item].
        codebook_id: the codebook they are of.
        each_shard: has histories built, and rows written where machines share the store.
    """
    with alone_in(home, STORES, wait_seconds=FOREVER):
        _publish_codes(home, data, item_ids, codes, codebook_id, each_shard)


def _publish_codes(
    home: Home, data: DataRef, item_ids: Sequence[str], codes: NDArray[np.uint8], codebook_id: str,
    each_shard: EachShard,
) -> None:  # fmt: skip
    """`publish_codes` where the lock is held."""
    interactions = data.read().interactions
    now = datetime.now(UTC)
    published = publications(home.catalogue / codebook_id)
    item_ids, codes = _with_publications(item_ids, codes, published)
    note_published_data(home, codebook_id, "")
    publication.publish(home, codebook_id, data.interactions, item_ids, codes, now, each_shard)
    note_published_data(home, codebook_id, data.digest)
    publish_statistics(home, interactions, codebook_id)
    _bring_again(home, codebook_id, published)
    log.info(
        "publish: %d items and %d histories online, codebook %s",
        len(item_ids), interactions[USER_ID].nunique(), codebook_id,
    )  # fmt: skip


def _with_publications(
    item_ids: Sequence[str], codes: NDArray[np.uint8], published: Sequence[Path]
) -> tuple[list[str], NDArray[np.uint8]]:
    """Items and codes with those of items that were published since, which win."""
    additions = read(published)
    if additions is None:
        return list(item_ids), codes
    by_id = dict(zip(item_ids, codes, strict=True))
    by_id |= zip(additions.item_ids, additions.codes, strict=True)
    return list(by_id), np.stack(list(by_id.values()))


def _bring_again(home: Home, codebook_id: str, published: Sequence[Path]) -> None:
    """Bring items online that were published meanwhile: their codes may have been written over."""
    from flows.catalogue.items import bring_online, publishing  # as in `publish_served`

    with publishing(home):
        there = publications(home.catalogue / codebook_id)
        additions = read([path for path in there if path not in published])
        if additions is not None:
            bring_online(home, codebook_id, additions)


def publish_statistics(home: Home, interactions: pd.DataFrame, codebook_id: str) -> None:
    """Count items over the data and the log's clicks, and bring the counts online.

    The codebook is one that is published already; the counts are the same under any.
    """
    event_log = EventLog(home)
    try:
        statistics = count_items(interactions, logged_clicks(event_log), datetime.now(UTC))
    finally:
        event_log.close()
    offline.write_statistics(home, statistics)
    FeatureWriter(home, codebook_id).write_item_statistics(statistics)
