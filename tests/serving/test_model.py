"""What the served model makes of ids, before any server stands around it."""

import time
import weakref
from datetime import UTC, datetime, timedelta
from threading import Thread

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

import serving.model
from features.online import UserRow
from hymirec.additions import Additions, publish
from hymirec.errors import DataError, HymirecError
from hymirec.history import History
from hymirec.package import PackageInfo
from serving.model import HyMiRecModel, Row, _keep_looking


@pytest.mark.parametrize(("given", "meant"), [("42", "42"), (42, "42"), (42.0, "42"), ("a", "a")])
def test_an_id_is_the_same_user_as_text_and_as_a_number(given, meant):
    assert Row(user_id=given).user_id == meant


@pytest.mark.parametrize("given", [None, float("nan"), float("inf"), 1.5, True, ["a"]])
def test_what_names_no_user_is_refused(given):
    with pytest.raises(MlflowException, match="a text or a whole number is needed"):
        Row(user_id=given)


class Everything:
    """A package that recommends nothing and features of users by how old their rows are."""

    info = PackageInfo("0123456789ab", "tiny", "data")
    broken: Exception | None = None

    def events(self, history, recent_items):
        if history is not None:
            return "known", "full"
        return ("recent", "recent_only") if recent_items else (None, "popular")

    def interests(self, users):
        return [f"interests of {user}" for user in users]

    def choose(self, query, known, interests):
        assert interests == (None if known is None else f"interests of {known}")
        return []

    def titles(self, item_ids):
        return list(item_ids)

    def read_users(self, user_ids):
        if self.broken:
            raise self.broken
        if "damaged" in user_ids:
            raise DataError("packed history is damaged")
        history = History(["a"], np.array([1]), np.zeros((1, 3), np.uint8), "0123456789ab")
        return {
            user_id: UserRow(history, datetime.now(UTC) - timedelta(hours=float(user_id)))
            for user_id in user_ids
            if user_id != "nobody"
        }


@pytest.fixture
def everything():
    model = HyMiRecModel()
    model.package = model.features = Everything()
    model.version, model.run_id, model.max_age = "1", "run", 3600.0
    model._no_features_until = 0.0
    return model


def ask(model, *user_ids, queries=None):
    queries = queries or [None] * len(user_ids)
    rows = [
        {"user_id": user_id, "query": query}
        for user_id, query in zip(user_ids, queries, strict=True)
    ]
    return model.predict(None, rows)


def test_rows_past_the_limit_are_answered_from_and_marked(everything):
    fresh, stale, nobody = ask(everything, "0.5", "2", "nobody")
    assert (fresh["served_by"], fresh["degraded"]) == ("full", None)
    assert 1800 <= fresh["feature_age_seconds"] < 1860
    assert (stale["served_by"], stale["degraded"]) == ("full", "stale features")
    assert 7200 <= stale["feature_age_seconds"] < 7260
    assert (nobody["feature_age_seconds"], nobody["degraded"]) == (None, None)
    assert (fresh["model_version"], fresh["run_id"], fresh["codebook_id"]) == (
        "1", "run", "0123456789ab",
    )  # fmt: skip


def test_a_damaged_row_is_one_users_trouble(everything):
    good, damaged = ask(everything, "0.5", "damaged")
    assert (good["served_by"], good["degraded"]) == ("full", None)
    assert (damaged["served_by"], damaged["degraded"]) == ("popular", "damaged features")


def test_without_features_answers_go_on_and_come_back_by_themselves(everything, monkeypatch):
    everything.features.broken = HymirecError("online store is missing")
    query = '{"recent_items": ["a"]}'
    for _ in range(2):  # the second does not wait for another failure
        known, visitor, recent = ask(everything, "0.5", "", "0.5", queries=["{}", "{}", query])
        assert (known["served_by"], known["degraded"]) == ("popular", "features unavailable")
        assert (visitor["served_by"], visitor["degraded"]) == ("popular", None)
        assert (recent["served_by"], recent["degraded"]) == ("recent_only", "features unavailable")
        everything.features.broken = None
    monkeypatch.setattr(serving.model, "SECONDS_BETWEEN_TRIES", 0.0)
    everything._no_features_until = 0.0
    assert ask(everything, "0.5")[0]["degraded"] is None


def test_a_query_says_what_is_asked_and_is_checked(everything):
    plain, explained = ask(everything, "0.5", "0.5", queries=['{"k": 3}', {"explain": True}])
    assert "recent" not in plain
    assert explained["recent"] == ["a"]
    for query, message in {'{"k": 0}': "query.k: ", "x": "query: Invalid JSON"}.items():
        with pytest.raises(MlflowException, match=message):
            ask(everything, "0.5", queries=[query])
    for k in (None, 0, 1001):
        with pytest.raises(MlflowException, match=f"k is {k}: 1 to 1000"):
            everything.predict(None, [{"user_id": "0.5"}], {"k": k})


def test_rows_come_as_a_table_too(everything):
    table = pd.DataFrame({"user_id": ["0.5", 2], "query": ['{"k": 3}', float("nan")]})
    plain, explained = everything.predict(None, table)
    assert (plain["user_id"], explained["user_id"]) == ("0.5", "2")
    assert "recent" not in plain
    assert explained["recent"] == ["a"]


class Package:
    """Stands in for one: counts what it was extended by."""

    def __init__(self, items=()):
        self.items = list(items)

    def extended(self, additions):
        return Package([*self.items, *additions.item_ids])


def additions(*ids):
    vectors = np.eye(2, dtype=np.float32)[[0] * len(ids)]
    codes = np.zeros((len(ids), 1), np.uint8)
    return Additions(list(ids), list(ids), list(ids), vectors, codes)


@pytest.fixture
def model(tmp_path):
    found = HyMiRecModel()
    found.package = Package()
    found._publications = tmp_path / "book"
    found._taken = set()
    found._said = ""
    return found


def test_each_publication_is_taken_in_once_into_a_package_that_is_new(model):
    model.take_in_items()  # nothing was ever published
    first = model.package
    publish(model._publications, additions("a", "b"))
    publish(model._publications, additions("c"))
    model.take_in_items()
    model.take_in_items()
    assert model.package.items == ["a", "b", "c"]
    assert first.items == []  # whoever was reading it reads on
    publish(model._publications, additions("d"))
    model.take_in_items()
    assert model.package.items == ["a", "b", "c", "d"]


def test_a_publication_that_cannot_be_read_does_not_keep_out_the_next(model, caplog):
    publish(model._publications, additions("a")).write_bytes(b"")
    model.take_in_items()
    assert "000001.parquet: not a readable publication" in caplog.text
    publish(model._publications, additions("b"))
    model.take_in_items()
    assert model.package.items == ["b"]
    assert len(caplog.messages) == 1


def test_a_publication_that_is_read_at_the_second_look_is_taken_in(model, monkeypatch):
    publish(model._publications, additions("a"))

    def fail_once(paths):
        monkeypatch.undo()
        raise DataError("the disk has hiccups")

    monkeypatch.setattr(serving.model, "read", fail_once)
    model.take_in_items()
    model.take_in_items()
    assert model.package.items == ["a"]


def test_a_publication_that_the_disk_does_not_give_is_waited_for(model):
    path = publish(model._publications, additions("a"))
    elsewhere = path.rename(path.with_suffix(".away"))
    path.symlink_to("nowhere")
    publish(model._publications, additions("b"))
    for _ in range(3):
        model.take_in_items()
    assert model.package.items == []
    elsewhere.replace(path)
    model.take_in_items()
    assert model.package.items == ["a", "b"]


def test_looking_goes_on_until_the_model_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(serving.model, "SECONDS_BETWEEN_LOOKS", 0.01)
    found = HyMiRecModel()
    found.package, found._publications, found._taken = Package(), tmp_path / "book", set()
    found._said = ""
    looking = Thread(target=_keep_looking, args=(weakref.ref(found),), daemon=True)
    looking.start()
    publish(found._publications, additions("a"))
    deadline = time.monotonic() + 10
    while not found.package.items and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found.package.items == ["a"]
    assert looking.is_alive()
    del found
    looking.join(10)
    assert not looking.is_alive()
