"""The data contract, written once: column names, id types, padding.

Two kinds of item number exist and are never mixed. An item id is what the user's data calls an
item: a string from here on, also where the file holds integers. An `ItemIndex` is a row of the
tables inside one model: 0 is padding, 1..N are the catalogue's items in the order of the items
table.
"""

from __future__ import annotations

from typing import NewType

ItemIndex = NewType("ItemIndex", int)

USER_ID = "user_id"
ITEM_ID = "item_id"
TIMESTAMP = "timestamp"
TITLE = "title"
SOURCE_ROW = "source_row"
"""Where a row stood in the file it was read from (its line for text files), for messages."""

QUERY = "query"
"""Of a request to the served model: what is asked beside the user's id (`hymirec.query`)."""

INTERACTION_COLUMNS = (USER_ID, ITEM_ID, TIMESTAMP)
ITEM_COLUMNS = (ITEM_ID, TITLE)

PADDING_INDEX = ItemIndex(0)

MIN_USERS = 2
MIN_EVENTS = 3
"""Events a user needs to be evaluated: one to train on, one to validate, one to test."""
