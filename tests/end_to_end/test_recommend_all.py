"""Everybody's lists in one file: as the server would answer, whole and resumable."""

import shutil
import time
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from features.logs.event_log import Event, EventLog
from features.offline import history_path
from features.online import FeatureReader
from features.updates import EventConsumer
from flows import recommend_all as module
from flows.recommend_all import recommend_all
from flows.registry.served import served_versions
from hymirec.batch import LISTS_SCHEMA
from hymirec.errors import HymirecError, VersionError
from hymirec.home import Home
from hymirec.package import RecommenderPackage


@pytest.fixture(scope="module")
def copied(home, tmp_path_factory):
    """A home with several groups of rows, clicks in the log, and users whom only the log knows."""
    target = tmp_path_factory.mktemp("recommend_all") / "hymirec"
    shutil.copytree(home.root, target)
    home = Home.at(target)
    (served,) = served_versions(home)
    path = history_path(home, served.codebook_id)
    pq.write_table(pq.read_table(path), path, row_group_size=10)
    items = RecommenderPackage.load(served.package).items["item_id"].tolist()
    now = int(time.time())
    log = EventLog(home)
    log.append(
        [
            Event(f"{user}-{n}", user, items[n], "click", now + n)
            for user in ("u0002", "u0017", "new1", "new2")
            for n in range(5)
        ]
        + [Event("waiting", "new3", "no such item", "click", now)]
    )
    log.close()
    return home


@pytest.fixture(scope="module")
def lists(copied, tmp_path_factory):
    """The file, and what the call told of it."""
    path = tmp_path_factory.mktemp("lists") / "lists.parquet"
    return path, recommend_all(copied, path)


def test_everybody_is_given_what_the_server_would_answer(copied, lists):
    path, done = lists
    table = pq.read_table(path)
    assert table.schema.remove_metadata() == LISTS_SCHEMA
    rows = {row["user_id"]: row for row in table.to_pylist()}
    assert len(rows) == table.num_rows == done.users == 123
    (served,) = served_versions(copied)
    package = RecommenderPackage.load(served.package)
    EventConsumer(copied).catch_up()
    online = FeatureReader(copied, served.codebook_id).read_users(list(rows))
    for user, row in rows.items():
        history = online[user].history if user in online else None
        found, served_by = package.recommend(history, 10)
        assert row["item_id"] == [one.item_id for one in found]
        assert row["served_by"] == served_by
    assert [user for user, row in rows.items() if row["served_by"] == "popular"] == ["new3"]
    assert done.popular == 1


def test_a_version_whose_histories_are_elsewhere_is_said_to_be(tmp_path):
    served = SimpleNamespace(codebook_id="0123456789ab")
    with pytest.raises(VersionError, match=r"no histories of codebook 0123456789ab: .* is missing"):
        module._asked(Home.at(tmp_path), served, 10, True)


def test_the_file_says_what_it_is_of(lists):
    path, done = lists
    metadata = pq.read_schema(path).metadata
    assert metadata[b"model_version"] == b'"1"'
    assert metadata[b"codebook_id"] == f'"{done.codebook_id}"'.encode()


def test_interrupted_it_goes_on_and_ends_the_same(copied, lists, tmp_path, monkeypatch):
    path = tmp_path / "lists.parquet"
    path.write_text("what was there before")
    work, calls = module.recommend_shard, []

    def fail_late(**shard):
        calls.append(shard)
        if len(calls) == 3:
            raise HymirecError("the disk is gone")
        return work(**shard)

    monkeypatch.setattr(module, "recommend_shard", fail_late)
    with pytest.raises(HymirecError, match="the disk is gone"):
        recommend_all(copied, path)
    assert path.read_text() == "what was there before"
    monkeypatch.setattr(module, "recommend_shard", work)
    done = recommend_all(copied, path)
    assert done.resumed_shards == 2
    assert path.read_bytes() == lists[0].read_bytes()
    assert [one.name for one in tmp_path.iterdir()] == ["lists.parquet"]


def test_shards_of_another_question_are_not_taken(copied, tmp_path, monkeypatch):
    path = tmp_path / "lists.parquet"
    monkeypatch.setattr(module, "_join", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recommend_all(copied, path)
    monkeypatch.undo()
    done = recommend_all(copied, path, k=3)
    assert done.resumed_shards == 0
    assert {len(one) for one in pq.read_table(path)["item_id"].to_pylist()} == {3}
