"""What a retrain learns from: a version's own data, and all that has come since."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

from features.logs.event_log import Event, EventLog
from features.statistics import SECOND, logged_clicks, united
from flows.registry.served import ServedVersion
from flows.registry.versions import refusal
from flows.runtime.settings import CODEBOOK_TAG, PARENT_TAG
from hymirec.additions import Additions, publications, read
from hymirec.datasets import Dataset, write
from hymirec.datasets import read as read_data
from hymirec.datasets.canonical import in_order
from hymirec.errors import UsageError
from hymirec.home import Home
from hymirec.inputs import seconds
from hymirec.schema import ITEM_ID, SOURCE_ROW, TIMESTAMP, TITLE, USER_ID
from hymirec.texts import text_columns

log = logging.getLogger(__name__)

CONTENT = "content"
"""Column of published items' text where the data has no column of text."""


def collect(home: Home, served: ServedVersion) -> Path:
    """Write the data of a version together with what came since, as a folder the pipeline takes.

    Clicks on items that are neither in the data nor published are left out.

    Args:
        home: whose log, catalogue and data.
        served: the version.

    Returns:
        The folder, in the home; what was collected before is replaced.

    Raises:
        DataError: the data the version was trained on is gone from the home.
        HymirecError: the event log cannot be read.
    """
    base = read_data(home.data / served.info["data_digest"])
    items = known_items(home, served, base.items)
    event_log = EventLog(home)
    try:
        interactions = with_clicks(base.interactions, logged_clicks(event_log), items)
    finally:
        event_log.close()
    directory = home.root / "retraining" / base.name
    write(Dataset(base.name, interactions, items), directory)
    log.info(
        "retrain: %d interactions, %d of them new, and %d items, %d of them new",
        len(interactions), len(interactions) - len(base.interactions),
        len(items), len(items) - len(base.items),
    )  # fmt: skip
    return directory


def known_items(home: Home, served: ServedVersion, items: pd.DataFrame) -> pd.DataFrame:
    """A version's items: those of its data, and all that was published for it until now."""
    for codebook_id in published_under(home, served):
        items = with_additions(items, read(publications(home.catalogue / codebook_id)))
    return items


def published_under(home: Home, served: ServedVersion) -> list[str]:
    """The codebooks that a version's items were published under, the oldest first.

    Beside its own those that it was refitted from: what was published under them is in the version,
    and in no data.

    Raises:
        HymirecError: the registry cannot be read.
    """
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    version, found = served.version, [served.codebook_id]
    while parent := version.tags.get(PARENT_TAG, ""):
        try:
            version = client.get_model_version(*parent.split("/"))
        except MlflowException as error:
            gone = f"retrain: {parent} is gone, and with it what was published for it"
            problem = refusal(error, gone)
            if not isinstance(problem, UsageError):  # it is there, and cannot be read now
                raise problem from error
            log.warning("%s", problem)
            break
        found.append(version.tags[CODEBOOK_TAG])
    return found[::-1]


def with_clicks(
    interactions: pd.DataFrame, clicks: Iterable[Event], items: pd.DataFrame
) -> pd.DataFrame:
    """Add clicks to canonical interactions.

    Data that holds some of the clicks already has them once (`features.statistics.united`).
    """
    known = set(items[ITEM_ID])
    rows = [(one.user_id, one.item_id, one.time) for one in clicks]
    logged = pd.DataFrame(rows, columns=[USER_ID, ITEM_ID, SECOND])
    unknown = ~logged[ITEM_ID].isin(known)
    if unknown.any():
        log.warning("retrain: %d clicks on items nobody knows are left out", unknown.sum())
        logged = logged[~unknown]
    if logged.empty:
        return interactions
    logged = logged.assign(**{TIMESTAMP: pd.to_datetime(logged[SECOND], unit="s", utc=True)})
    logged[TIMESTAMP] = logged[TIMESTAMP].astype(interactions[TIMESTAMP].dtype)
    first = int(interactions[SOURCE_ROW].max()) + 1
    logged[SOURCE_ROW] = np.arange(first, first + len(logged))
    stored = interactions.assign(**{SECOND: seconds(interactions[TIMESTAMP])})
    return in_order(united(stored, logged)[interactions.columns])


def with_additions(items: pd.DataFrame, additions: Additions | None) -> pd.DataFrame:
    """Add published items to the canonical items table; a changed item takes its new text.

    Of a published item its text is known, not its columns: what follows the title goes into the
    first column of text, so that the encoder reads the same.
    """
    if additions is None:
        return items
    content = next(iter(text_columns(items)), CONTENT)
    others = [name for name in text_columns(items) if name != content]
    parts = [text.partition(" Content:")[2].strip() for text in additions.texts]
    first = int(items[SOURCE_ROW].max()) + 1
    rows = pd.DataFrame(
        {
            ITEM_ID: additions.item_ids, TITLE: additions.titles, content: parts,
            SOURCE_ROW: np.arange(first, first + len(additions)), **dict.fromkeys(others, ""),
        }
    )  # fmt: skip
    changed = rows[rows[ITEM_ID].isin(items[ITEM_ID])].set_index(ITEM_ID)
    new = rows[~rows[ITEM_ID].isin(items[ITEM_ID])]
    table = items.set_index(ITEM_ID)
    for column in (TITLE, content, *others):
        if column in table:
            table[column] = changed[column].reindex(table.index).fillna(table[column])
    columns = [*items.columns, *({content} - set(items.columns))]
    return pd.concat([table.reset_index(), new], ignore_index=True)[columns]
