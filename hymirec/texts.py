"""What is read of an item: its title and every further column of text."""

from __future__ import annotations

import logging

import pandas as pd

from hymirec.schema import ITEM_ID, SOURCE_ROW, TITLE

log = logging.getLogger(__name__)


def item_texts(items: pd.DataFrame) -> list[str]:
    """What the encoder reads of each row of a canonical items table.

    The title comes first, then every further column of text, in the table's order. An item
    without any reads "Title:  Content:"; how many there are is logged.
    """
    titles, content = _titles_and_content(items)
    empty = (titles + content).str.strip() == ""
    if empty.any():
        log.warning(
            "items: %d of %d have no text, %r for one: to the encoder they are all the same",
            empty.sum(), len(items), items[ITEM_ID][empty].iloc[0],
        )  # fmt: skip
    return ("Title: " + titles + " Content:" + content).tolist()


def plain_texts(items: pd.DataFrame) -> list[str]:
    """The same without the words that say which part is which: title, then content."""
    titles, content = _titles_and_content(items)
    return (titles + content).str.strip().tolist()


def text_columns(items: pd.DataFrame) -> list[str]:
    """The columns of text beside id and title, in the table's order."""
    known = (ITEM_ID, TITLE, SOURCE_ROW)
    return [name for name in items.columns if name not in known and _is_text(items[name])]


def _titles_and_content(items: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    titles = items[TITLE].fillna("").astype(str)
    content = pd.Series("", index=items.index)
    for column in text_columns(items):
        content = content + " " + items[column].fillna("").astype(str)
    return titles, content


def _is_text(column: pd.Series) -> bool:
    return pd.api.types.infer_dtype(column, skipna=True) in ("string", "empty")
