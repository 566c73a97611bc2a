"""Features published into a home: offline and online agree, and nothing is mixed up."""

import importlib.util
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from features import definitions, offline, online, publication, stores
from features.definitions import define
from hymirec.errors import DataError, HymirecError, UsageError, VersionError
from hymirec.history import unpack
from hymirec.home import Home

CODEBOOK = "ab12cd34ef56"
NEXT_CODEBOOK = "0123456789ab"
ITEM_IDS = [str(item) for item in range(40)] + ["007", "tt01", "映画"]
NUM_USERS = 30
PUBLISHED_AT = datetime(2026, 1, 1, tzinfo=UTC)


def make_codes(codebook_id, code_bytes=9):
    rng = np.random.default_rng(int(codebook_id, 16))
    return rng.integers(0, 256, (len(ITEM_IDS), code_bytes)).astype(np.uint8)


def make_interactions():
    """30 users, events from 1970 on; user 0 has all events in one second."""
    rng = np.random.default_rng(1)
    frames = []
    for user in range(NUM_USERS):
        length = int(rng.integers(1, 60))
        seconds = np.sort(rng.integers(0, 1_000_000_000, length)) if user else np.full(length, 7)
        frames.append(
            pd.DataFrame(
                {
                    "user_id": f"user {user}",
                    "item_id": rng.choice(ITEM_IDS, length),
                    "timestamp": pd.to_datetime(seconds, unit="s", utc=True).as_unit("ns"),
                }
            )
        )
    interactions = pd.concat(frames, ignore_index=True)
    return interactions.assign(source_row=np.arange(len(interactions)))


def publish(home, codebook_id, interactions, code_bytes=9):
    codes = make_codes(codebook_id, code_bytes)
    items = offline.item_rows(ITEM_IDS, codes, codebook_id, PUBLISHED_AT)
    histories = offline.history_rows(interactions, ITEM_IDS, codes, codebook_id, PUBLISHED_AT)
    offline.write(home, codebook_id, items, histories)
    publication.apply(home, codebook_id)
    publication.materialise(home, codebook_id)
    return items, histories


def assert_same(actual, expected):
    assert list(actual.item_ids) == list(expected.item_ids)
    np.testing.assert_array_equal(actual.times, expected.times)
    np.testing.assert_array_equal(actual.codes, expected.codes)
    assert actual.codebook_id == expected.codebook_id


@pytest.fixture(scope="module")
def interactions():
    return make_interactions()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    # A path that would break YAML, URLs and shells.
    return Home.at(tmp_path_factory.mktemp("homes") / "a home: #1 %20 é")


@pytest.fixture(scope="module")
def published(home, interactions):
    """Two codebooks in one home, with codes of different lengths."""
    rows = publish(home, CODEBOOK, interactions)
    publish(home, NEXT_CODEBOOK, interactions, code_bytes=12)
    return rows


@pytest.fixture(scope="module")
def reader(home, published):
    return online.FeatureReader(home, CODEBOOK)


def stored_bytes(home, codebook_id, user_id):
    """Read a user's blob as Feast hands it out."""
    view = define(home, codebook_id).user_histories.name
    store = stores.open_store(home)
    return store.get_online_features([f"{view}:history"], {"user_id": [user_id]}).to_dict()[
        "history"
    ][0]


def test_history_rows_are_the_interactions(interactions, published):
    _, histories = published
    assert histories["user_id"].tolist() == [f"user {user}" for user in range(NUM_USERS)]
    codes = dict(zip(ITEM_IDS, make_codes(CODEBOOK), strict=True))
    for row in histories.itertuples():
        events = interactions[interactions["user_id"] == row.user_id]
        history = unpack(row.history, CODEBOOK)
        assert history.item_ids == events["item_id"].tolist()
        assert history.times.tolist() == [t.timestamp() for t in events["timestamp"]]
        np.testing.assert_array_equal(history.codes, [codes[i] for i in history.item_ids])
        assert row.num_events == len(events)
        assert row.event_timestamp == row.created == events["timestamp"].iloc[-1]


def test_history_rows_do_not_depend_on_the_order_of_users(interactions, published):
    _, histories = published
    mixed = interactions.sort_values("timestamp", kind="stable")
    rows = offline.history_rows(mixed, ITEM_IDS, make_codes(CODEBOOK), CODEBOOK, PUBLISHED_AT)
    again = rows.set_index("user_id").loc[histories["user_id"]].reset_index()
    pd.testing.assert_frame_equal(again, histories)


def test_offline_row_equals_online_row(home, published, reader):
    _, histories = published
    trained_on = offline.read_histories(home, CODEBOOK)
    assert list(trained_on) == histories["user_id"].tolist()
    for row in histories.itertuples():
        assert stored_bytes(home, CODEBOOK, row.user_id) == row.history
        served = reader.read_user(row.user_id)
        assert_same(served.history, trained_on[row.user_id])
        assert served.written_at == PUBLISHED_AT
    served = reader.read_users(histories["user_id"].tolist())
    assert list(served) == list(trained_on)


@pytest.mark.usefixtures("on_servers")
def test_offline_row_equals_online_row_on_servers(tmp_path, interactions):
    home = Home.at(tmp_path)
    items, histories = publish(home, CODEBOOK, interactions)
    publish(home, NEXT_CODEBOOK, interactions, code_bytes=12)
    for row in histories.itertuples():
        assert stored_bytes(home, CODEBOOK, row.user_id) == row.history
    reader = online.FeatureReader(home, CODEBOOK)
    assert list(reader.read_users(["nobody", *histories["user_id"]])) == list(histories["user_id"])
    codes = reader.read_item_codes([*ITEM_IDS, "unknown"])
    assert list(codes) == items["item_id"].tolist()
    np.testing.assert_array_equal(list(codes.values()), make_codes(CODEBOOK))
    newer = online.FeatureReader(home, NEXT_CODEBOOK).read_user("user 5").history
    assert_same(newer, offline.read_histories(home, NEXT_CODEBOOK)["user 5"])


def test_age_is_counted_from_the_writing_of_the_row(reader):
    row = reader.read_user("user 0")
    assert row.age_seconds(PUBLISHED_AT + timedelta(days=1)) == 86_400


def test_item_codes_are_read_as_they_were_written(reader):
    codes = reader.read_item_codes([*ITEM_IDS, "unknown", "007"])
    assert list(codes) == ITEM_IDS
    np.testing.assert_array_equal(list(codes.values()), make_codes(CODEBOOK))
    assert reader.read_item_codes([]) == {}


def test_more_keys_than_sqlite_takes_at_once(reader):
    many = [f"unknown {number}" for number in range(25_000)]
    assert list(reader.read_item_codes([*many, "007"])) == ["007"]


def test_unknown_user_is_none(reader):
    assert reader.read_user("nobody") is None
    assert reader.read_users([]) == {}
    assert list(reader.read_users(["nobody", "user 3"])) == ["user 3"]


def test_two_codebooks_are_readable_side_by_side(home, published, reader):
    newer = online.FeatureReader(home, NEXT_CODEBOOK)
    assert online.list_codebooks(home) == sorted([CODEBOOK, NEXT_CODEBOOK])
    old, new = reader.read_user("user 5").history, newer.read_user("user 5").history
    assert (old.codebook_id, old.codes.shape[1]) == (CODEBOOK, 9)
    assert (new.codebook_id, new.codes.shape[1]) == (NEXT_CODEBOOK, 12)
    assert old.item_ids == new.item_ids
    assert_same(new, offline.read_histories(home, NEXT_CODEBOOK)["user 5"])


def test_threads_share_a_reader(home, published, reader):
    expected = offline.read_histories(home, CODEBOOK)
    failures = []

    def read_all():
        try:
            for user_id, history in expected.items():
                assert_same(reader.read_user(user_id).history, history)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=read_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_reads_go_on_while_publishing_and_doing_it_again_changes_nothing(home, published, reader):
    before = {user: stored_bytes(home, CODEBOOK, user) for user in ("user 0", "user 9")}
    done = threading.Event()
    failures, num_reads = [], 0

    def publish_again():
        try:
            publication.apply(home, CODEBOOK)
            publication.materialise(home, CODEBOOK)
        except BaseException as failure:
            failures.append(failure)
        done.set()

    thread = threading.Thread(target=publish_again)
    thread.start()
    while not done.is_set():
        assert reader.read_user("user 9") is not None
        assert CODEBOOK in online.list_codebooks(home)
        num_reads += 1
    thread.join()
    assert failures == []
    assert num_reads > 10
    assert before == {user: stored_bytes(home, CODEBOOK, user) for user in before}
    with sqlite3.connect(home.feast / "online.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_publications_at_the_same_time_are_both_kept(tmp_path):
    home = Home.at(tmp_path)
    ids = [f"{number:012x}" for number in range(4)]
    threads = [threading.Thread(target=publication.apply, args=(home, id_)) for id_ in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    services = {service.name for service in stores.open_store(home).list_feature_services()}
    assert services == {f"hymirec_{id_}" for id_ in ids}


def test_historical_features_agree_with_the_offline_row(home, published):
    _, histories = published
    asked = histories.iloc[[1, 2, 3]]
    before = asked["event_timestamp"] - pd.Timedelta(seconds=1)
    entities = pd.DataFrame(
        {
            "user_id": [*asked["user_id"], *asked["user_id"]],
            "event_timestamp": [*asked["event_timestamp"], *before],
        }
    )
    view = define(home, CODEBOOK).user_histories.name
    found = (
        stores.open_store(home)
        .get_historical_features(entities, [f"{view}:history", f"{view}:num_events"])
        .to_df()
    )
    at = found.merge(asked, on=["user_id", "event_timestamp"], suffixes=("", "_offline"))
    assert len(at) == 3
    assert at["history"].tolist() == at["history_offline"].tolist()
    assert at["num_events"].tolist() == at["num_events_offline"].tolist()
    # A row says nothing of the time before it; Feast leaves such questions out of its answer.
    assert len(found) == len(at)


def test_unpublished_codebook_is_refused(home, published, tmp_path):
    unknown = "ffffffffffff"
    with pytest.raises(VersionError, match=f"{unknown} is not published in .*: published: 0123"):
        online.FeatureReader(home, unknown)
    with pytest.raises(VersionError, match="nothing to bring online"):
        publication.materialise(home, unknown)
    with pytest.raises(VersionError, match="no histories"):
        offline.read_histories(home, unknown)
    with pytest.raises(VersionError, match="not 12 hexadecimal digits"):
        publication.apply(home, "v2")
    empty = Home.at(tmp_path / "empty")
    assert online.list_codebooks(empty) == []
    with pytest.raises(VersionError, match=f"{unknown} is not published in {empty.root}"):
        online.FeatureReader(empty, unknown)
    assert not empty.root.exists()  # asking makes nothing


@pytest.mark.parametrize(
    "step",
    [
        "features.online.FeatureWriter.write_item_rows",
        "features.online.FeatureWriter.write_history_rows",
        "features.updates.HistoryUpdater.update",
        "feast.infra.registry.registry.Registry.apply_materialization",
    ],
)
def test_interrupted_publication_is_not_published(tmp_path, interactions, monkeypatch, step):
    home = Home.at(tmp_path)
    codes = make_codes(CODEBOOK)
    offline.write(
        home,
        CODEBOOK,
        offline.item_rows(ITEM_IDS, codes, CODEBOOK, PUBLISHED_AT),
        offline.history_rows(interactions, ITEM_IDS, codes, CODEBOOK, PUBLISHED_AT),
    )
    with pytest.raises(VersionError, match="is not applied"):
        publication.materialise(home, CODEBOOK)
    publication.apply(home, NEXT_CODEBOOK)
    with pytest.raises(VersionError, match="is not applied"):
        publication.materialise(home, CODEBOOK)
    publication.apply(home, CODEBOOK)
    with monkeypatch.context() as patch:
        patch.setattr(step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            publication.materialise(home, CODEBOOK)
    with pytest.raises(VersionError, match="nothing is"):
        online.FeatureReader(home, CODEBOOK)
    assert not list(home.feast.glob("*.draft"))
    publication.materialise(home, CODEBOOK)
    assert online.FeatureReader(home, CODEBOOK).read_user("user 1") is not None


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_two_homes_do_not_meet(home, published, reader, tmp_path, interactions, monkeypatch):
    other = Home.at(tmp_path / "other")
    monkeypatch.setenv("HYMIREC_HOME", str(home.root))  # must not be read
    publish(other, CODEBOOK, interactions[interactions["user_id"] == "user 4"])
    other_reader = online.FeatureReader(other, CODEBOOK)
    assert other_reader.read_user("user 5") is None
    assert_same(other_reader.read_user("user 4").history, reader.read_user("user 4").history)
    assert reader.read_user("user 5") is not None
    assert online.list_codebooks(other) == [CODEBOOK]


def test_unusable_store_is_one_clear_error(tmp_path, interactions):
    home = Home.at(tmp_path)
    publish(home, CODEBOOK, interactions)
    database, registry = home.feast / "online.db", home.feast / "registry.db"
    database.write_bytes(b"not a database" * 1000)
    with pytest.raises(HymirecError, match="cannot be used: DatabaseError"):
        online.FeatureReader(home, CODEBOOK)
    with pytest.raises(HymirecError, match="cannot be used: DatabaseError"):
        publication.materialise(home, CODEBOOK)
    database.unlink()
    with pytest.raises(HymirecError, match="missing"):
        online.FeatureReader(home, CODEBOOK)
    database.touch()
    with pytest.raises(HymirecError, match="no such table"):
        online.FeatureReader(home, CODEBOOK)
    registry.write_bytes(b"\xff" * 100)
    with pytest.raises(HymirecError, match="cannot be used: DecodeError"):
        online.FeatureReader(home, CODEBOOK)


def test_bad_rows_are_refused(tmp_path, interactions, published):
    items, histories = published
    codes = make_codes(CODEBOOK)
    with pytest.raises(DataError, match="'007'"):
        offline.history_rows(interactions, ITEM_IDS[:40], codes[:40], CODEBOOK, PUBLISHED_AT)
    with pytest.raises(DataError, match="'1' occurs twice"):
        offline.item_rows(["1", "1"], codes[:2], CODEBOOK, PUBLISHED_AT)
    with pytest.raises(DataError, match="2 items and 3 codes"):
        offline.item_rows(["1", "2"], codes[:3], CODEBOOK, PUBLISHED_AT)
    with pytest.raises(DataError, match="no time zone"):
        offline.item_rows(["1"], codes[:1], CODEBOOK, datetime(2026, 1, 1))
    with pytest.raises(DataError, match="no interactions"):
        offline.history_rows(interactions[:0], ITEM_IDS, codes, CODEBOOK, PUBLISHED_AT)
    late = interactions.assign(timestamp=interactions["timestamp"].where(lambda t: t > t[0]))
    with pytest.raises(DataError, match="missing values"):
        offline.history_rows(late, ITEM_IDS, codes, CODEBOOK, PUBLISHED_AT)
    home = Home.at(tmp_path)
    # Feast would take an array for bytes and read back None.
    arrays = items.assign(code=list(codes))
    with pytest.raises(DataError, match="item_codes"):
        offline.write(home, CODEBOOK, arrays, histories)
    with pytest.raises(DataError, match="user_histories"):
        offline.write(home, CODEBOOK, items, histories.drop(columns="num_events"))


def test_damaged_offline_file_is_refused(tmp_path, interactions):
    home = Home.at(tmp_path)
    publish(home, CODEBOOK, interactions)
    path = offline.history_path(home, CODEBOOK)
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []
    path.write_bytes(path.read_bytes()[:-50])
    for read in (offline.read_histories, publication.materialise):
        with pytest.raises(DataError, match=r"user_histories\.parquet: not a readable"):
            read(home, CODEBOOK)
    assert online.FeatureReader(home, CODEBOOK).read_user("user 1") is not None


def test_feast_apply_is_refused():
    """It finds no objects in the definitions, and would drop every view with its rows."""
    spec = importlib.util.spec_from_file_location("definitions", definitions.__file__)
    with pytest.raises(UsageError, match="not by `feast apply`"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_training_reads_without_feast():
    code = "import sys, features.offline; sys.exit('feast' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
