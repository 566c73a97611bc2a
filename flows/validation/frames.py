"""Tables as suites see them: the columns there are, and derived ones for rules to use.

Of interactions:
    item_is_known             whether the items hold this item (also true where none is named)
    user_is_item              whether the user's id is an item's
    columns_look_swapped      1 in every row where most users are items and most items are not
    user_is_placeholder, item_is_placeholder   whether the id is a word for nothing, such as NULL
    user_has_blanks, item_has_blanks           whether the id has outer blanks or control characters
    is_repeat                 1 where the same user, item and time stand in the row before
    seconds_since_previous    time since the same user's row before; null in a user's first
    seconds_since_1970        negative before
    seconds_after_validation  negative in the past
    years_from_median         between the row's time and the median of all
    is_midnight               1 where the time is a day's first second
    events_of_user            rows of the same user
    share_of_user, share_of_item  rows of the same user (item) over all; 0 below 100 users (items)
Of both tables, where data of the same name was validated before:
    rows_over_previous        rows over those it had
    users_kept, items_kept    share of its users (items) that are still there
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hymirec.datasets import Dataset
from hymirec.errors import DataError
from hymirec.history import History
from hymirec.schema import (
    INTERACTION_COLUMNS,
    ITEM_COLUMNS,
    ITEM_ID,
    PADDING_INDEX,
    SOURCE_ROW,
    TIMESTAMP,
    USER_ID,
)
from hymirec.splits import Case, Split

PLACEHOLDERS = ("", "null", "none", "nan", "n/a", "na", "nil", "undefined", "unknown", "-1")
FEW = 100
"""Users or items below which one of them may well have much of everything."""
_YEAR_SECONDS = 365.25 * 86400
_BLANKS = r"^\s|\s$|[\x00-\x1f\x7f\ufffd]"


def dataset_frames(
    dataset: Dataset, now: datetime, previous: Dataset | None = None
) -> dict[str, pd.DataFrame]:
    """Interactions and items with their derived columns, in the order of their files.

    Args:
        dataset: the canonical tables.
        now: the time of validation; a time without zone is UTC.
        previous: data of the same name that was validated before, if any.

    Raises:
        DataError: a canonical column is missing, so that nothing can be checked.
    """
    items = _with_columns("items", dataset.items, ITEM_COLUMNS)
    events = _with_columns("interactions", dataset.interactions, INTERACTION_COLUMNS)
    before = _against(dataset, previous)
    return {
        "interactions": _in_source_order(_interactions(events, items, now).assign(**before)),
        "items": _in_source_order(items.assign(**before)),
    }


def _interactions(frame: pd.DataFrame, catalogue: pd.DataFrame, now: datetime) -> pd.DataFrame:
    """Add the derived columns to the interactions, which are in the order of the table."""
    stamps = pd.to_datetime(frame[TIMESTAMP], utc=True, errors="coerce")
    moment = pd.Timestamp(now)
    moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
    # Numbers and distinct values: looking at a million strings is most of the time otherwise.
    users, user_ids = pd.factorize(frame[USER_ID])
    items, item_ids = pd.factorize(frame[ITEM_ID])
    seconds = _seconds(stamps - pd.Timestamp(0, tz="UTC"))
    gaps = np.full(len(frame), np.nan)
    same_user = (users[1:] == users[:-1]) & (users[1:] >= 0)
    gaps[1:] = np.where(same_user, seconds[1:] - seconds[:-1], np.nan)
    known = np.asarray(item_ids.isin(catalogue[ITEM_ID]))
    user_is_item = np.asarray(user_ids.isin(catalogue[ITEM_ID]))
    swapped = len(known) > 0 and len(user_is_item) > 0 and bool(
        user_is_item.mean() > 0.5 > known.mean()
    )  # fmt: skip
    repeats = np.zeros(len(frame), dtype=bool)
    repeats[1:] = same_user & (items[1:] == items[:-1]) & (gaps[1:] == 0)
    events_of_user = _of_row(users, np.bincount(users[users >= 0], minlength=1), 0)
    events_of_item = _of_row(items, np.bincount(items[items >= 0], minlength=1), 0)
    middle = np.nanmedian(seconds) if np.isfinite(seconds).any() else np.nan
    return frame.assign(
        item_is_known=_of_row(items, known, 1),
        user_is_item=_of_row(users, user_is_item, 0),
        columns_look_swapped=int(swapped),
        user_is_placeholder=_of_row(users, _placeholders(user_ids), 0),
        item_is_placeholder=_of_row(items, _placeholders(item_ids), 0),
        user_has_blanks=_of_row(users, _blanks(user_ids), 0),
        item_has_blanks=_of_row(items, _blanks(item_ids), 0),
        is_repeat=repeats.astype(np.int64),
        seconds_since_previous=gaps,
        seconds_since_1970=seconds,
        seconds_after_validation=_seconds(stamps - moment),
        years_from_median=np.abs(seconds - middle) / _YEAR_SECONDS,
        is_midnight=(seconds % 86400 == 0).astype(np.int64),
        events_of_user=events_of_user,
        share_of_user=events_of_user / len(frame) if len(user_ids) >= FEW else 0.0,
        share_of_item=events_of_item / len(frame) if len(item_ids) >= FEW else 0.0,
    )


def _of_row(numbers: NDArray[Any], values: NDArray[Any], missing: int) -> NDArray[Any]:
    """Values [distinct] of rows [N] by number; `missing` where the number is -1."""
    if not len(values):
        return np.full(len(numbers), missing)
    found = values[np.maximum(numbers, 0)]
    return np.where(numbers >= 0, found, values.dtype.type(missing))


def _placeholders(ids: pd.Index) -> NDArray[np.bool_]:
    words = pd.Series(ids, dtype=object).astype(str).str.strip().str.lower()
    return words.isin(PLACEHOLDERS).to_numpy(bool)


def _blanks(ids: pd.Index) -> NDArray[np.bool_]:
    return pd.Series(ids, dtype=object).astype(str).str.contains(_BLANKS).to_numpy(bool)


def _against(dataset: Dataset, previous: Dataset | None) -> dict[str, float]:
    """how much of the data that was there before is still there; all of it where none was."""
    if previous is None:
        return dict.fromkeys(("rows_over_previous", "users_kept", "items_kept"), 1.0)
    users = previous.interactions[USER_ID].drop_duplicates()
    items = previous.items[ITEM_ID]
    return {
        "rows_over_previous": len(dataset.interactions) / len(previous.interactions),
        "users_kept": float(users.isin(dataset.interactions[USER_ID].unique()).mean()),
        "items_kept": float(items.isin(dataset.items[ITEM_ID]).mean()),
    }


def history_frame(
    histories: Mapping[str, History], item_ids: Sequence[str], codebook_id: str, now: datetime
) -> pd.DataFrame:
    """One row a published history.

    Returns:
        user_id; num_events; num_unknown, events of items that are not in the catalogue; num_falls,
        events earlier than the one before; codebook_is_right; code_bytes, of an event;
        seconds_after_validation, of the last event.
    """
    known = set(item_ids)
    moment = now.timestamp()
    rows = [
        (
            user, len(one), sum(item not in known for item in one.item_ids),
            int((np.diff(one.times) < 0).sum()), one.codebook_id == codebook_id,
            one.codes.shape[1], one.times[-1] - moment if len(one) else np.nan,
        )
        for user, one in histories.items()
    ]  # fmt: skip
    columns = (
        "num_events", "num_unknown", "num_falls", "codebook_is_right", "code_bytes",
        "seconds_after_validation",
    )  # fmt: skip
    return pd.DataFrame(rows, columns=[USER_ID, *columns])


def training_frame(split: Split, user_ids: Sequence[str], num_items: int) -> pd.DataFrame:
    """One row a question of validation and test, with what may be trained on of the same user.

    Returns:
        user_id; part, `validation` or `test`; num_training and num_known, events trained on and
        known; target_is_item, whether the target is an item of the catalogue; num_strangers, known
        events that are of none; num_leaks, training events that are not among those known.
    """
    training = split.training
    rows = [
        (
            user_ids[case.user], part, len(training[case.user]), len(case.known),
            PADDING_INDEX < case.target <= num_items, _strangers(case, num_items),
            max(0, len(training[case.user]) - len(case.known)),
        )
        for part, cases in (("validation", split.validation), ("test", split.test))
        for case in cases
    ]  # fmt: skip
    columns = (
        "part", "num_training", "num_known", "target_is_item", "num_strangers", "num_leaks",
    )  # fmt: skip
    return pd.DataFrame(rows, columns=[USER_ID, *columns])


def _strangers(case: Case, num_items: int) -> int:
    return int(((case.known.items <= PADDING_INDEX) | (case.known.items > num_items)).sum())


def prediction_frame(
    users: pd.DataFrame, cases: Sequence[Case], num_items: int, list_length: int
) -> pd.DataFrame:
    """One row a user who was asked about; `users` as `hymirec.evaluation.report.Report` has it.

    Returns:
        user_id; rank; is_first, whether the target came first; num_missing, places of the list that
        are empty although items were left; num_repeats; num_strangers, items that are not in the
        catalogue; num_seen, items that the user had already; share_of_list, of users with the very
        same list.
    """
    lists = np.stack([np.asarray(one) for one in users["listed"]])
    left = np.array([num_items - len(np.unique(case.known.items)) for case in cases])
    expected = np.minimum(list_length, left)
    filled = lists != PADDING_INDEX
    ordered = np.sort(lists, axis=1)
    repeats = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != PADDING_INDEX)).sum(axis=1)
    seen = [
        int(np.isin(row[mask], case.known.items).sum())
        for row, mask, case in zip(lists, filled, cases, strict=True)
    ]
    _, places, counts = np.unique(lists, axis=0, return_inverse=True, return_counts=True)
    return pd.DataFrame(
        {
            USER_ID: users[USER_ID].to_numpy(),
            "rank": users["rank"].to_numpy(),
            "is_first": (users["rank"] == 1).astype(np.int64).to_numpy(),
            "num_missing": np.maximum(0, expected - filled.sum(axis=1)),
            "num_repeats": repeats,
            "num_strangers": ((lists < 0) | (lists > num_items)).sum(axis=1),
            "num_seen": seen,
            "share_of_list": counts[places.reshape(-1)] / len(lists) if len(lists) >= FEW else 0.0,
        }
    )


def _seconds(durations: pd.Series) -> NDArray[np.float64]:
    """Seconds of each duration, NaN where it is missing."""
    return durations.to_numpy("timedelta64[ns]") / np.timedelta64(1, "s")


def _with_columns(table: str, frame: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    missing = [column for column in (*columns, SOURCE_ROW) if column not in frame]
    if missing:
        raise DataError(
            f"{table}: no column {missing[0]!r}; columns found: {', '.join(map(str, frame))}"
        )
    return frame


def _in_source_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Order rows as the file had them, so that the first rows reported are its first."""
    if not frame[SOURCE_ROW].is_monotonic_increasing:
        frame = frame.take(np.argsort(frame[SOURCE_ROW].to_numpy(), kind="stable"))
    return frame.reset_index(drop=True)
