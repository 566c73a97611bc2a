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
from hymirec.errors import UsageError
from hymirec.history import History
from serving.model import ENV_MAX_AGE, HyMiRecModel, _keep_looking, _max_age, _user_id


@pytest.mark.parametrize(("given", "meant"), [("42", "42"), (42, "42"), (42.0, "42"), ("a", "a")])
def test_an_id_is_the_same_user_as_text_and_as_a_number(given, meant):
    assert _user_id(given) == meant


@pytest.mark.parametrize("given", [None, float("nan"), float("inf"), 1.5, True, ["a"]])
def test_what_names_no_user_is_refused(given):
    with pytest.raises(MlflowException, match="a text or a whole number is needed"):
        _user_id(given)


class Everything:
    """A package that recommends nothing and features of users by how old their rows are."""

    def recommend(self, history, k, *, exclude_seen):
        return [], "popular" if history is None else "full"

    def titles(self, item_ids):
        return list(item_ids)

    def read_users(self, user_ids):
        history = History(["a"], np.array([1]), np.zeros((1, 3), np.uint8), "0123456789ab")
        return {
            user_id: UserRow(history, datetime.now(UTC) - timedelta(hours=float(user_id)))
            for user_id in user_ids
            if user_id != "nobody"
        }


def test_rows_past_the_limit_are_answered_from_and_marked():
    model = HyMiRecModel()
    model.package = model.features = Everything()
    model.version, model.max_age = "1", 3600.0
    fresh, stale, nobody = model.predict(None, pd.DataFrame({"user_id": ["0.5", "2", "nobody"]}))
    assert (fresh["served_by"], fresh["degraded"]) == ("full", None)
    assert 1800 <= fresh["feature_age_seconds"] < 1860
    assert (stale["served_by"], stale["degraded"]) == ("full", "stale features")
    assert 7200 <= stale["feature_age_seconds"] < 7260
    assert (nobody["feature_age_seconds"], nobody["degraded"]) == (None, None)


def test_the_limit_is_set_by_the_environment(monkeypatch):
    monkeypatch.delenv(ENV_MAX_AGE, raising=False)
    assert _max_age() == 7 * 86_400
    monkeypatch.setenv(ENV_MAX_AGE, "60.5")
    assert _max_age() == 60.5
    for wrong in ("a week", "0", "-1", "nan"):
        monkeypatch.setenv(ENV_MAX_AGE, wrong)
        with pytest.raises(UsageError, match=f"{ENV_MAX_AGE} is '{wrong}'"):
            _max_age()


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


def test_looking_goes_on_until_the_model_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(serving.model, "SECONDS_BETWEEN_LOOKS", 0.01)
    found = HyMiRecModel()
    found.package, found._publications, found._taken = Package(), tmp_path / "book", set()
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
