"""What became of served lists: one row for each user of an experiment.

An event belongs to the last list before it that showed its item to its user: the one its sender
names as `request_id` in the context, or else the last within the experiment's attribution window.
What happened before a user's first list that counts belongs to nobody.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.logs.event_log import CLICK, EventLog
from hymirec.abtest import metrics as m
from hymirec.abtest.definition import Experiment

_AT_FIRST = {
    m.ERRORS: m.FIRST_ERROR,
    m.FALLBACKS: m.FIRST_FALLBACK,
    m.SLOW: m.FIRST_SLOW,
    m.LATENCY: m.FIRST_LATENCY,
}
"""What is summed over a user's requests, and what the first of them has by itself."""
DAYS_BEFORE = 14
"""Of what users did before an experiment, to foretell what they do in it."""
SLOW_MS = 100.0


@dataclass(frozen=True)
class Outcomes:
    """What is known of an experiment's users.

    Attributes:
        users: one row a user, columns as `hymirec.abtest.metrics.COLUMNS`; without testers and
            crossovers.
        crossovers: users who were seen in more than one variant.
        shown: one row for each item of each list that counts: `user_id`, `variant`, `item_id`,
            `time`, `position`, `team`, and whether it was `seen`, `clicked` and `converted`.
    """

    users: pd.DataFrame
    crossovers: int
    shown: pd.DataFrame


def outcomes(
    experiment: Experiment, exposures: pd.DataFrame, events: pd.DataFrame, *, started: float,
    new_items: Collection[str] = (), published: Mapping[str, NDArray[np.int64]] | None = None,
) -> Outcomes:  # fmt: skip
    """Join lists and events of an experiment.

    Args:
        experiment: its declaration.
        exposures: its rows of the exposure log (`ExposureLog.of_experiment`).
        events: of its users since `DAYS_BEFORE` days before it started (`events_of`).
        started: when it did, seconds since 1970 UTC.
        new_items: items that count as new.
        published: times of users' histories in the feature store, which may go back further than
            the events do.
    """
    rows = exposures[~exposures["is_override"].astype(bool)]
    per_user = rows.groupby("user_id")["variant"].nunique()
    crossed = set(per_user.index[per_user > 1])
    rows = rows[~rows["user_id"].isin(crossed)]
    counted = rows[~rows["is_fallback"].astype(bool)]
    shown = _attributed(_shown(counted), events, experiment.attribution_hours * 3600)
    users = _requests(rows)
    for part in (_lists(counted), _happened(shown, set(new_items)), _before(events, started)):
        users = users.join(part)
    users = users.join(_history(counted, events, published or {}))
    users[m.CLICKED] = users[m.CLICKS] > 0
    users[m.CONVERTED] = users[m.CONVERSIONS] > 0
    first = users.pop(m.FIRST)
    table = users.reindex(columns=[c for c in m.COLUMNS if c not in (m.USER, m.VARIANT, m.FIRST)])
    table = table.astype(float).fillna(0.0)
    table.insert(0, m.VARIANT, users[m.VARIANT])
    table.insert(1, m.FIRST, first)
    return Outcomes(table.reset_index(names=m.USER), len(crossed), shown)


def events_of(log: EventLog, user_ids: Sequence[str], since: float) -> pd.DataFrame:
    """Events of users; columns as `Event`, and the `request_id` out of the context in its place.

    Args:
        log: to read.
        user_ids: whose.
        since: seconds since 1970 UTC.
    """
    columns = ["user_id", "item_id", "kind", "time", "value", "context"]
    frame = pd.DataFrame(log.rows_of(user_ids, since), columns=columns)
    frame["value"] = frame["value"].astype(float)
    frame["request_id"] = _texts(_request_id(text) for text in frame.pop("context"))
    return frame


def _texts(values: Iterable[str]) -> NDArray[np.object_]:
    """A column of texts, also where there are none: of those pandas would make numbers."""
    return np.array(list(values), dtype=object)


def _request_id(context: str) -> str:
    if '"request_id"' not in context:
        return ""
    value: Any = json.loads(context).get("request_id", "")
    return value if isinstance(value, str) else ""


def _requests(rows: pd.DataFrame) -> pd.DataFrame:
    """What is counted from assignment on, by user."""
    table = pd.DataFrame(
        {
            m.USER: rows["user_id"],
            m.VARIANT: rows["variant"],
            m.REQUESTS: 1.0,
            m.ERRORS: rows["error"] != "",
            m.FALLBACKS: rows["is_fallback"].astype(bool),
            m.SLOW: rows["latency_ms"] > SLOW_MS,
            m.LATENCY: rows["latency_ms"],
            m.FIRST_REQUEST: rows["time"],
        }
    )
    summed = [m.REQUESTS, *_AT_FIRST]
    grouped = table.groupby(m.USER, sort=True)
    earliest = table.sort_values(m.FIRST_REQUEST, kind="stable").drop_duplicates(m.USER)
    first = earliest.set_index(m.USER)[[m.VARIANT, m.FIRST_REQUEST, *_AT_FIRST]]
    return grouped[summed].sum().join(first.rename(columns=_AT_FIRST))


def _lists(counted: pd.DataFrame) -> pd.DataFrame:
    """What is counted of lists, by user."""
    table = pd.DataFrame(
        {
            m.USER: counted["user_id"],
            m.FIRST: counted["time"],
            m.LISTS: 1.0,
            m.DEGRADED: counted["degraded"] != "",
            m.INTERESTS: [float(len({*one} - {0})) for one in counted["interests"]],
        }
    )
    grouped = table.groupby(m.USER)
    return grouped[[m.FIRST]].min().join(grouped[[m.LISTS, m.DEGRADED, m.INTERESTS]].sum())


def _shown(counted: pd.DataFrame) -> pd.DataFrame:
    """One row for each item of each list."""
    lengths = counted["items"].map(len).to_numpy(dtype=np.int64)
    repeated = counted[["user_id", "variant", "request_id", "time"]].loc[
        counted.index.repeat(lengths)
    ]
    teams = [
        team
        for items, one in zip(counted["items"], counted["teams"], strict=True)
        for team in (one or [-1] * len(items))
    ]
    ends = np.cumsum(lengths)
    positions = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths) + 1
    return repeated.reset_index(drop=True).assign(
        item_id=_texts(item for items in counted["items"] for item in items),
        position=positions,
        team=np.array(teams, dtype=np.int64),
    )


def _attributed(shown: pd.DataFrame, events: pd.DataFrame, window: float) -> pd.DataFrame:
    """Which shown items were seen, clicked and converted, and what that was worth."""
    shown = shown.assign(
        place=np.arange(len(shown)), second=np.floor(shown["time"]).astype(np.int64)
    )
    # A request that is asked again under its id is shown twice; what follows it happened once.
    keys = ["user_id", "item_id", "request_id"]
    named = events[events["request_id"] != ""].merge(
        shown[[*keys, "place"]].drop_duplicates(keys, keep="last"), on=keys
    )
    rest = events[~_is_named(events, named)]
    ordered = rest.astype({"time": np.int64}).sort_values("time", kind="stable")
    lists = shown.sort_values("second", kind="stable")
    joined = pd.merge_asof(
        ordered, lists[["user_id", "item_id", "second", "place"]],
        left_on="time", right_on="second", by=["user_id", "item_id"], tolerance=int(window),
    ).dropna(subset=["place"])  # fmt: skip
    matched = pd.concat([named[["place", "kind", "value"]], joined[["place", "kind", "value"]]])
    place = matched["place"].to_numpy(dtype=np.int64)
    for column, kind in (("seen", "impression"), ("clicked", CLICK), ("converted", "conversion")):
        happened = np.zeros(len(shown), dtype=bool)
        happened[place[(matched["kind"] == kind).to_numpy()]] = True
        shown[column] = happened
    worth = np.zeros(len(shown))
    counts = (matched["kind"] != "impression").to_numpy()
    np.add.at(worth, place[counts], matched["value"].fillna(0.0).to_numpy()[counts])
    return shown.assign(value=worth).drop(columns=["place", "second"])


def _is_named(events: pd.DataFrame, named: pd.DataFrame) -> pd.Series[bool]:
    """Events that name a list that showed their item."""
    keys = ["user_id", "item_id", "request_id"]
    lists = pd.MultiIndex.from_frame(named[keys])
    return pd.Series(pd.MultiIndex.from_frame(events[keys]).isin(lists), index=events.index)


def _happened(shown: pd.DataFrame, new_items: set[str]) -> pd.DataFrame:
    """What is counted of shown items, by user."""
    is_new = shown["item_id"].isin(new_items)
    table = pd.DataFrame(
        {
            m.USER: shown["user_id"],
            m.SHOWN: 1.0,
            m.SEEN: shown["seen"],
            m.CLICKS: shown["clicked"],
            m.CONVERSIONS: shown["converted"],
            m.VALUE: shown["value"],
            m.COLD_SHOWN: is_new,
            m.COLD_CLICKS: is_new & shown["clicked"],
        }
    )
    by_user = table.groupby(m.USER).sum()
    by_user[m.DISTINCT] = shown.groupby("user_id")["item_id"].nunique()
    return by_user


def _before(events: pd.DataFrame, started: float) -> pd.DataFrame:
    """What users did before anybody took part."""
    past = events[events["time"] < started]
    is_click, is_conversion = past["kind"] == CLICK, past["kind"] == "conversion"
    table = pd.DataFrame(
        {
            m.USER: past["user_id"],
            m.CLICKS_BEFORE: is_click,
            m.CONVERSIONS_BEFORE: is_conversion,
            m.VALUE_BEFORE: past["value"].fillna(0.0) * (is_click | is_conversion),
        }
    )
    return table.groupby(m.USER).sum()


def _history(
    counted: pd.DataFrame, events: pd.DataFrame, published: Mapping[str, NDArray[np.int64]]
) -> pd.DataFrame:
    """Clicks on record before the first list, by user."""
    first = counted.groupby("user_id")["time"].min()
    clicks = events[events["kind"] == CLICK]
    earlier = clicks[clicks["time"] < np.floor(clicks["user_id"].map(first))]
    logged = earlier.groupby("user_id").size().reindex(first.index, fill_value=0)
    stored = [
        int(np.searchsorted(published[user], np.floor(time))) if user in published else 0
        for user, time in zip(first.index.astype(str), first, strict=True)
    ]
    return pd.DataFrame({m.HISTORY: np.maximum(logged, stored)})
