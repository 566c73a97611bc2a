"""Which categories items have, by the column of their table that holds them."""

from __future__ import annotations

import re

import pandas as pd

from hymirec.texts import text_columns

MAX_CATEGORIES = 200
"""A column of text with more distinct parts than this does not hold categories."""


def category_column(items: pd.DataFrame) -> str:
    """The column that holds categories: parts between commas or bars.

    It is the first column of text beside the title that has at most `MAX_CATEGORIES` distinct
    parts, and fewer than there are items; empty where there is none.
    """
    for column in text_columns(items):
        names = {part.lower() for row in categories_in(items[column]) for part in row}
        if names and len(names) <= MAX_CATEGORIES and len(names) < len(items):
            return column
    return ""


def categories_in(column: pd.Series) -> list[list[str]]:
    """The parts of every row of a column, as they are written; none where it is missing."""
    return [
        [part.strip() for part in re.split(r"[,|]", text) if part.strip()]
        for text in column.fillna("").astype(str)
    ]
