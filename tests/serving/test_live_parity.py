"""Rows that say something else than history and log are counted, in traffic."""

import threading
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import publishing
import pytest
from prometheus_client import CollectorRegistry

from features.logs.event_log import EventLog
from features.online import FeatureReader, FeatureWriter
from hymirec.errors import UsageError
from hymirec.home import Home
from serving import live_parity
from serving.live_parity import ENV_SHARE, LiveParity

CODEBOOK = "0123456789ab"


@pytest.fixture
def log(tmp_path):
    home = Home.at(tmp_path).create()
    now = datetime.now(UTC)
    codes = np.arange(9, dtype=np.uint8).reshape(3, 3)
    interactions = pd.DataFrame(
        {"user_id": ["u1", "u1", "u2"], "item_id": ["a", "b", "c"],
         "timestamp": pd.to_datetime([1, 2, 3], unit="s", utc=True)}
    )  # fmt: skip
    publishing.publish(home, CODEBOOK, interactions, list("abc"), codes, now)
    log = EventLog(home)
    yield log
    log.close()


def test_a_wrong_row_is_counted(log, monkeypatch, caplog):
    monkeypatch.setenv(ENV_SHARE, "1")
    metrics = CollectorRegistry()
    parity = LiveParity(log, metrics)
    parity.check()  # nobody was seen
    for user in ("u1", "u2", "u1", "nobody"):
        parity.saw(user)
    parity.check()
    assert metrics.get_sample_value("hymirec_parity_compared_total") == 2
    assert metrics.get_sample_value("hymirec_parity_mismatches_total") == 0

    right = FeatureReader(log.home, CODEBOOK).read_user("u1").history
    FeatureWriter(log.home, CODEBOOK).write_histories({"u1": right.tail(1)})
    parity.saw("u1")
    parity.check()
    assert metrics.get_sample_value("hymirec_parity_compared_total") == 3
    assert metrics.get_sample_value("hymirec_parity_mismatches_total") == 1
    assert "the row of user 'u1'" in caplog.text


def test_a_check_that_fails_is_not_the_last(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(live_parity, "SECONDS_BETWEEN_CHECKS", 0.01)
    log, stop, checks = EventLog(Home.at(tmp_path).create()), threading.Event(), []

    def check(self):
        checks.append(1)
        if len(checks) == 1:
            raise RuntimeError("nobody thought of this")
        stop.set()

    monkeypatch.setattr(LiveParity, "check", check)
    LiveParity(log, CollectorRegistry()).run(stop)
    assert len(checks) == 2
    assert "nobody thought of this" in caplog.text
    log.close()


def test_the_share_is_kept_to(log, monkeypatch):
    monkeypatch.setenv(ENV_SHARE, "0")
    parity = LiveParity(log, CollectorRegistry())
    for _ in range(100):
        parity.saw("u1")
    assert parity._users.empty()
    monkeypatch.setenv(ENV_SHARE, "1")
    parity = LiveParity(log, CollectorRegistry())
    for _ in range(1000):
        parity.saw("u1")  # never waits for the check
    assert parity._users.full()
    for wrong in ("half", "-1", "2", "nan"):
        monkeypatch.setenv(ENV_SHARE, wrong)
        with pytest.raises(UsageError, match=f"{ENV_SHARE} is '{wrong}'"):
            LiveParity(log, CollectorRegistry())
