"""What every loader returns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import pandas as pd

from hymirec.errors import DataError
from hymirec.schema import INTERACTION_COLUMNS, ITEM_ID, SOURCE_ROW, USER_ID


@dataclass(frozen=True)
class Dataset:
    """Interactions and items in canonical form.

    `interactions` has user_id and item_id as strings, timestamp as `datetime64[ns, UTC]` and
    source_row as int64, in order of (user_id, timestamp, source_row); further columns of the
    source are kept. `items` has item_id and title as strings and source_row, in the source's
    order; further columns are kept, and those of text are read by the content encoder.

    A loader guarantees the columns and their types. It does not judge the values: nulls, duplicate
    ids and unknown items pass through, for the validation step to report.
    """

    name: str
    interactions: pd.DataFrame
    items: pd.DataFrame

    def digest(self) -> str:
        """The first 16 hex digits of a SHA-256 over the values of both tables."""
        digest = hashlib.sha256()
        for frame in (self.interactions, self.items):
            digest.update(",".join(map(str, frame.columns)).encode())
            digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
        return digest.hexdigest()[:16]

    def require_whole(self) -> None:
        """Refuse rows that do not say who, what or when, and items twice or not at all there.

        For callers without a validation step, which reports more.

        Raises:
            DataError: names the table and the first such row.
        """
        for name, table, needed in (
            ("interactions", self.interactions, INTERACTION_COLUMNS),
            ("items", self.items, (ITEM_ID,)),
        ):
            for column in needed:
                _refuse(name, table, table[column].isna(), f"has no {column}")
        ids = self.items[ITEM_ID]
        _refuse("items", self.items, ids.duplicated(), "has item_id {item_id!r} a second time")
        unknown = ~self.interactions[ITEM_ID].isin(set(ids))
        _refuse(
            "interactions", self.interactions, unknown,
            "has item {item_id!r}, which is not among the items",
        )  # fmt: skip

    def with_frequent_users(self, min_events: int) -> Dataset:
        """Keep users with so many events at least, and the items they have."""
        counts = self.interactions.groupby(USER_ID)[ITEM_ID].transform("size")
        kept = self.interactions[counts >= min_events].reset_index(drop=True)
        items = self.items[self.items[ITEM_ID].isin(set(kept[ITEM_ID]))].reset_index(drop=True)
        return replace(self, interactions=kept, items=items)


def _refuse(name: str, table: pd.DataFrame, bad: pd.Series, what: str) -> None:
    if bad.any():
        first = table.iloc[int(bad.to_numpy().argmax())]
        more = f" (and {bad.sum() - 1} more such rows)" if bad.sum() > 1 else ""
        said = what.format(item_id=first[ITEM_ID])
        raise DataError(f"{name}: row {first[SOURCE_ROW]} {said}{more}")
