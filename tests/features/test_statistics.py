"""Item statistics: counted by hand, published, and read online."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import publishing
import pytest
from feast import FeatureService

from features import offline, online, publication, stores
from features.definitions import define
from features.logs.event_log import Event, EventLog
from features.statistics import ItemStatistics, count_items, logged_clicks
from flows.steps.publish import publish_statistics
from hymirec.errors import DataError, VersionError
from hymirec.home import Home

CODEBOOK = "0123456789ab"
ITEMS = ["a", "b", "never"]
NOW = datetime(2026, 1, 2, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
INTERACTIONS = pd.DataFrame(
    {
        "user_id": ["u1", "u1", "u1", "u2"],
        "item_id": ["a", "a", "b", "a"],
        "timestamp": pd.to_datetime([10, 10, 20, 5], unit="s", utc=True),
    }
)
CLICKS = [
    Event("1", "u1", "a", "click", 10),  # one of the two of that second
    Event("2", "u3", "b", "click", 7),
    Event("3", "u3", "new", "click", 8),
    Event("4", "u1", "b", "click", 20),
    Event("5", "u1", "b", "click", 20),  # once more than the data has it
]


def counted(clicks):
    table = count_items(INTERACTIONS, clicks, NOW)
    assert table.columns.tolist() == offline.STATISTICS_SCHEMA.names
    return {row[0]: row[1:5] for row in table.itertuples(index=False)}


def test_events_users_and_times_are_counted():
    assert counted([]) == {"a": (3, 2, 5, 10), "b": (1, 1, 20, 20)}


def test_a_click_that_the_data_holds_counts_once():
    assert counted(CLICKS) == {
        "a": (3, 2, 5, 10), "b": (3, 2, 7, 20), "new": (1, 1, 8, 8),
    }  # fmt: skip


def test_nothing_to_count_is_an_error():
    with pytest.raises(DataError, match="there are no events"):
        count_items(INTERACTIONS[:0], [], NOW)
    with pytest.raises(DataError, match="no time zone"):
        count_items(INTERACTIONS, [], datetime(2026, 1, 1))


def publish(home):
    codes = np.zeros((len(ITEMS), 3), dtype=np.uint8)
    publishing.publish(home, CODEBOOK, INTERACTIONS, ITEMS, codes, NOW)


def test_statistics_are_read_as_they_were_counted(tmp_path):
    home = Home.at(tmp_path).create()
    publish(home)
    reader = online.FeatureReader(home, CODEBOOK)
    assert reader.read_item_statistics(ITEMS) == {}
    log = EventLog(home)
    log.append([*CLICKS, Event("seen", "u9", "a", "impression", 99)])
    assert list(logged_clicks(log)) == CLICKS
    publish_statistics(home, INTERACTIONS, CODEBOOK)
    found = reader.read_item_statistics(["b", "never", "new", "a"])
    assert list(found) == ["b", "new", "a"]
    assert found["a"] == ItemStatistics(3, 2, 5, 10, found["b"].counted_at)
    assert abs(datetime.now(UTC).timestamp() - found["a"].counted_at) < 60
    # Counted again, with one click more.
    log.append([Event("6", "u1", "never", "click", 1)])
    publish_statistics(home, INTERACTIONS, CODEBOOK)
    assert reader.read_item_statistics(["never"])["never"].popularity == 1
    offline_rows = pd.read_parquet(offline.statistics_path(home)).set_index("item_id")
    assert offline_rows["popularity"].to_dict() == {"a": 3, "b": 3, "never": 1, "new": 1}


def test_the_service_of_every_codebook_names_them(tmp_path):
    home = Home.at(tmp_path).create()
    publish(home)
    service = stores.open_store(home).get_feature_service(f"hymirec_{CODEBOOK}")
    names = {projection.name for projection in service.feature_view_projections}
    assert names == {view.name for view in define(home, CODEBOOK).views}
    assert "item_statistics" in names


def test_a_home_of_an_earlier_version_says_so(tmp_path, monkeypatch):
    home = Home.at(tmp_path).create()
    now = define(home, CODEBOOK)
    service = FeatureService(name=now.service.name, features=list(now.own_views))
    monkeypatch.setattr(publication, "define", lambda *_: now._replace(service=service))
    monkeypatch.setattr(type(now), "views", type(now).own_views)
    publish(home)
    reader = online.FeatureReader(home, CODEBOOK)
    with pytest.raises(VersionError, match="no item statistics in"):
        reader.read_item_statistics(["a"])
