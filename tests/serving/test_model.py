"""What the served model makes of ids, before any server stands around it."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from features.online import UserRow
from hymirec.errors import UsageError
from hymirec.history import History
from serving.model import ENV_MAX_AGE, HyMiRecModel, _max_age, _user_id


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
