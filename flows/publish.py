"""Codes, histories and statistics to the feature store: offline files, definitions, online rows."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pandas as pd

from features import offline, publication
from features.event_log import EventLog
from features.online import FeatureWriter
from features.statistics import count_items, logged_clicks
from flows.data import DataRef
from flows.encode import read_codebook, read_codes
from flows.steps import StepResult
from hymirec.home import Home
from hymirec.schema import ITEM_ID

log = logging.getLogger(__name__)


def publish_features(home: Home, data: DataRef, codebook: StepResult) -> None:
    """Publish a codebook's item codes and user histories beside those already there.

    Doing it again changes nothing; a step that was cut short is made whole.
    """
    book = read_codebook(codebook)
    codes = read_codes(codebook)
    dataset = data.read()
    item_ids = dataset.items[ITEM_ID].tolist()
    now = datetime.now(UTC)
    items = offline.item_rows(item_ids, codes, book.id, now)
    histories = offline.history_rows(dataset.interactions, item_ids, codes, book.id, now)
    offline.write(home, book.id, items, histories)
    publication.apply(home, book.id)
    publication.materialise(home, book.id)
    publish_statistics(home, dataset.interactions, book.id)
    log.info(
        "publish: %d items and %d histories online, codebook %s",
        len(items), len(histories), book.id,
    )  # fmt: skip


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
