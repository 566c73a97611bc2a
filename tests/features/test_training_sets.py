"""Histories as they stood at any time: by hand, and as Feast's own point-in-time join has them."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from features import offline, publication, stores, updates
from features.definitions import define
from features.logs.event_log import Event, EventLog
from features.offline import CREATED, EVENT_TIMESTAMP, HISTORY, HISTORY_SCHEMA, NUM_EVENTS
from features.training_sets import training_set
from hymirec.errors import DataError, VersionError
from hymirec.history import pack
from hymirec.home import Home

CODEBOOK = "0123456789ab"
ITEMS = [f"i{n}" for n in range(20)]
CODES = np.random.default_rng(3).integers(0, 256, (len(ITEMS), 4)).astype(np.uint8)


def interactions(*events):
    users, items, times = zip(*events, strict=True)
    times = pd.to_datetime(times, unit="s", utc=True)
    return pd.DataFrame({"user_id": users, "item_id": items, "timestamp": times})


def publish(home, events):
    now = datetime.now(UTC)
    offline.write(
        home, CODEBOOK,
        offline.item_rows(ITEMS, CODES, CODEBOOK, now),
        offline.history_rows(interactions(*events), ITEMS, CODES, CODEBOOK, now),
    )  # fmt: skip
    return home


def click(home, *events):
    log = EventLog(home)
    log.append([Event(f"e{n}", user, item, "click", t) for n, (user, item, t) in enumerate(events)])
    log.close()


def pairs(*rows):
    users, times = zip(*rows, strict=True)
    times = pd.to_datetime((np.array(times) * 1e6).astype(int), unit="us", utc=True)
    return pd.DataFrame({"user_id": users, "event_timestamp": times})


@pytest.fixture
def home(tmp_path):
    home = Home.at(tmp_path).create()
    publish(home, [("u1", "i1", 10), ("u1", "i2", 20), ("u1", "i3", 20), ("u2", "i4", -5)])
    click(home, ("u1", "i5", 15), ("new", "i6", 30), ("u1", "i2", 20), ("u2", "uncoded", 40))
    return home


def items_at(found):
    histories = [found.history(row) for row in range(len(found))]
    return [None if one is None else list(one.item_ids) for one in histories]


def test_a_history_holds_what_happened_until_then(home):
    asked = pairs(
        ("u1", 20), ("u1", 9), ("u1", 10), ("u1", 19.999), ("u1", 15), ("u1", 9e9),
        ("new", 29), ("new", 30), ("u2", -5), ("u2", -6), ("u2", 99), ("nobody", 50),
    )  # fmt: skip
    found = training_set(home, CODEBOOK, asked.assign(label=range(12)))
    assert items_at(found) == [
        ["i1", "i5", "i3", "i2"], None, ["i1"], ["i1", "i5"], ["i1", "i5"],
        ["i1", "i5", "i3", "i2"], None, ["i6"], ["i4"], None, ["i4"], None,
    ]  # fmt: skip
    np.testing.assert_array_equal(found.history(4).codes, CODES[[1, 5]])
    assert found.history(4).times.tolist() == [10, 15]
    assert found.rows["label"].tolist() == list(range(12))
    assert found.rows["num_events"].tolist() == [4, 0, 1, 2, 2, 4, 0, 1, 1, 0, 1, 0]
    missing = found.without_history
    assert list(zip(missing["user_id"], missing["label"], missing["reason"], strict=True)) == [
        ("u1", 1, "no events until then"), ("new", 6, "no events until then"),
        ("u2", 9, "no events until then"), ("nobody", 11, "unknown user"),
    ]  # fmt: skip


def test_a_set_of_nobody_is_empty(home):
    found = training_set(home, CODEBOOK, pairs(("u1", 20)).head(0))
    assert (len(found), found.indexed({}), list(found.without_history.columns)) == (
        0, [], ["user_id", "event_timestamp", "num_events", "reason"],
    )  # fmt: skip


def test_a_models_histories_are_cut_at_the_same_time(home):
    found = training_set(home, CODEBOOK, pairs(("u1", 20), ("u1", 15), ("u1", 9), ("nobody", 1)))
    known = {"i1": 1, "i3": 2}  # as of a model that knows neither i5 nor i2
    histories = found.indexed(known)
    assert [None if one is None else one.items.tolist() for one in histories] == [
        [1, 2], [1], None, None,
    ]  # fmt: skip
    np.testing.assert_array_equal(histories[0].codes, CODES[[1, 3]])


def test_a_row_online_forgets_what_a_training_set_keeps(home, monkeypatch):
    monkeypatch.setattr(updates, "MAX_EVENTS", 2)
    assert items_at(training_set(home, CODEBOOK, pairs(("u1", 10), ("u1", 20)))) == [
        ["i1"], ["i1", "i5", "i3", "i2"],
    ]  # fmt: skip


def test_what_cannot_be_asked_is_named(home):
    good = pairs(("u1", 1))
    with pytest.raises(DataError, match="column 'user_id' is missing"):
        training_set(home, CODEBOOK, good.drop(columns="user_id"))
    with pytest.raises(DataError, match="column 'event_timestamp' has missing values"):
        training_set(home, CODEBOOK, good.assign(event_timestamp=pd.NaT))
    with pytest.raises(DataError, match="column 'event_timestamp' is int64, no time"):
        training_set(home, CODEBOOK, good.assign(event_timestamp=5))
    with pytest.raises(VersionError, match="no histories of codebook ffffffffffff"):
        training_set(home, "ffffffffffff", good)


def snapshots(history, user_id):
    """One row for each second with events: what a store that wrote at every event would hold.

    Of rows of one second Feast's file store takes any, because it sorts by creation first and then,
    not stably, by time.
    """
    seconds, counts = np.unique(history.times, return_counts=True)
    rows = [
        (user_id, pack(replace(history[:end], written_at=7)), end, second, second)
        for end, second in zip(np.cumsum(counts).tolist(), seconds.tolist(), strict=True)
    ]
    frame = pd.DataFrame(rows, columns=HISTORY_SCHEMA.names)
    for column in (EVENT_TIMESTAMP, CREATED):
        frame[column] = pd.to_datetime(frame[column], unit="s", utc=True)
    return frame


def test_feast_joins_the_same_rows(tmp_path):
    rng = np.random.default_rng(0)
    home = Home.at(tmp_path / "home").create()
    events = [
        (f"u{user}", str(rng.choice(ITEMS)), int(second))
        for user in range(8)
        for second in np.sort(rng.integers(0, 60, rng.integers(1, 30)))  # several in one second
    ]
    publish(home, events)
    click(
        home, *((f"u{rng.integers(10)}", str(rng.choice(ITEMS)), int(rng.integers(60)))
                for _ in range(60)),
    )  # fmt: skip
    users = [f"u{user}" for user in range(11)]  # two who only clicked, one whom nobody knows
    asked = pairs(*((user, when) for user in users for when in (-1, *rng.uniform(0, 61, 12))))
    whole = pairs(*((user, second) for user in users for second in range(0, 60, 7)))
    asked = pd.concat([asked, whole], ignore_index=True).assign(row=lambda frame: frame.index)
    found = training_set(home, CODEBOOK, asked)
    assert 0 < len(found.without_history) < len(asked) / 2

    # The same view, on a file that holds every state a user's row was ever in.
    other = Home.at(tmp_path / "snapshots").create()
    rows = pd.concat([snapshots(one, user) for user, one in found.histories.items()])
    now = datetime.now(UTC)
    offline.write(other, CODEBOOK, offline.item_rows(ITEMS, CODES, CODEBOOK, now), rows)
    publication.apply(other, CODEBOOK)
    view = define(other, CODEBOOK).user_histories.name
    joined = (
        stores.open_store(other)
        .get_historical_features(asked, [f"{view}:{HISTORY}", f"{view}:{NUM_EVENTS}"])
        .to_df()
        .set_index("row")
        .reindex(asked["row"])  # Feast drops a user's rows from before the first event
    )
    ours = [found.history(row) for row in range(len(found))]
    expected = [None if one is None else pack(replace(one, written_at=7)) for one in ours]
    assert [None if pd.isna(blob) else blob for blob in joined[HISTORY]] == expected
    assert joined[NUM_EVENTS].fillna(0).astype(int).tolist() == found.rows[NUM_EVENTS].tolist()
