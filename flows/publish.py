"""Codes and histories to the feature store: offline files, definitions, online rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features import offline, online
from features.event_log import EventLog
from features.updates import HistoryUpdater
from flows.data import DataRef
from flows.encode import read_codebook, read_codes
from flows.steps import StepResult
from hymirec.additions import publications, read
from hymirec.home import Home
from hymirec.schema import ITEM_ID

log = logging.getLogger(__name__)

USERS_AT_A_TIME = 1000


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

    Args:
        home: where to.
        interactions: canonical interactions.
        item_ids: N ids, those of the interactions among them.
        codes: uint8 [N, bytes per item].
        codebook_id: the codebook they are of.
    """
    now = datetime.now(UTC)
    items = offline.item_rows(item_ids, codes, codebook_id, now)
    histories = offline.history_rows(interactions, item_ids, codes, codebook_id, now)
    offline.write(home, codebook_id, items, histories)
    online.apply(home, codebook_id)
    online.materialise(home, codebook_id)
    additions = read(publications(home.catalogue / codebook_id))
    if additions is not None:
        writer = online.FeatureWriter(home, codebook_id)
        writer.write_item_codes(additions.item_ids, additions.codes)
    _bring_in_clicks(home, codebook_id)
    log.info(
        "publish: %d items and %d histories online, codebook %s",
        len(items), len(histories), codebook_id,
    )  # fmt: skip


def _bring_in_clicks(home: Home, codebook_id: str) -> None:
    """The files hold a data set; what the event log holds beside it goes into the rows."""
    events = EventLog(home)
    try:
        users = events.users()
        updater = HistoryUpdater(events, codebook_id)
        for start in range(0, len(users), USERS_AT_A_TIME):
            with events.writing():
                updater.update(users[start : start + USERS_AT_A_TIME])
    finally:
        events.close()
