"""Codes, histories and statistics to the feature store: offline files, definitions, online rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features import offline, publication
from features.event_log import EventLog
from features.lineage import tell_run
from features.online import FeatureWriter
from features.statistics import count_items, logged_clicks
from flows.data import DataRef
from flows.encode import read_codebook, read_codes
from flows.steps import StepResult
from hymirec.additions import publications, read
from hymirec.home import Home
from hymirec.schema import ITEM_ID, USER_ID

log = logging.getLogger(__name__)


def publish_features(home: Home, data: DataRef, codebook: StepResult) -> None:
    """Publish a codebook's item codes and user histories beside those already there.

    Doing it again changes nothing; a step that was cut short is made whole.
    """
    dataset = data.read()
    publish_codes(
        home, dataset.interactions, dataset.items[ITEM_ID].tolist(), read_codes(codebook),
        read_codebook(codebook).id,
    )  # fmt: skip


def publish_codes(
    home: Home, interactions: pd.DataFrame, item_ids: Sequence[str], codes: NDArray[np.uint8],
    codebook_id: str,
) -> None:  # fmt: skip
    """Publish the codes of items, and histories with them; what came since is brought in again.

    An active run of MLflow is told of the features.

    Args:
        home: where to.
        interactions: canonical interactions.
        item_ids: N ids, those of the interactions among them.
        codes: uint8 [N, bytes per item].
        codebook_id: the codebook they are of.
    """
    now, started = datetime.now(UTC), time.monotonic()
    item_ids, codes = _with_publications(home, item_ids, codes, codebook_id)
    publication.publish(home, codebook_id, interactions, item_ids, codes, now)
    publish_statistics(home, interactions, codebook_id)
    num_users = interactions[USER_ID].nunique()
    tell_run(home, codebook_id, num_users, started)
    log.info(
        "publish: %d items and %d histories online, codebook %s",
        len(item_ids), num_users, codebook_id,
    )  # fmt: skip


def _with_publications(
    home: Home, item_ids: Sequence[str], codes: NDArray[np.uint8], codebook_id: str
) -> tuple[list[str], NDArray[np.uint8]]:
    """Items and codes with those of items that were published since, which win."""
    additions = read(publications(home.catalogue / codebook_id))
    if additions is None:
        return list(item_ids), codes
    by_id = dict(zip(item_ids, codes, strict=True))
    by_id |= zip(additions.item_ids, additions.codes, strict=True)
    return list(by_id), np.stack(list(by_id.values()))


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
