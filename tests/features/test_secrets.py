"""Passwords in addresses of stores: in no log, no message, no traceback, no file of the home."""

import logging
import os
import traceback

import numpy as np
import pandas as pd
import publishing
import pytest

from features import online, stores
from features.logs.audit_log import AuditLog
from features.logs.event_log import Event, EventLog
from features.updates import EventConsumer
from hymirec.errors import HymirecError
from hymirec.home import Home

CODEBOOK = "0123456789ab"
SECRET = "correct-horse-battery"
NOBODY = "127.0.0.1:1"
ADDRESSES = {
    "HYMIREC_ONLINE_STORE": f"redis://somebody:{SECRET}@{NOBODY}/0",
    "HYMIREC_REGISTRY": f"postgresql://somebody:{SECRET}@{NOBODY}/features",
    "HYMIREC_EVENT_LOG": f"postgresql://somebody:{SECRET}@{NOBODY}/events",
}


@pytest.fixture(autouse=True)
def everything_logged(caplog):
    """What any library says at any level."""
    caplog.set_level(logging.DEBUG)
    # Made when they were imported, with levels of their own.
    for name in ("sqlalchemy", "redis", "feast", "features", "hymirec"):
        caplog.set_level(logging.DEBUG, logger=name)


@pytest.mark.parametrize(
    "work",
    [
        EventLog,
        AuditLog,
        EventConsumer,
        stores.open_store,
        stores.published_in,
        lambda home: online.FeatureReader(home, CODEBOOK),
        lambda home: online.list_codebooks(home),
    ],
    ids=["event log", "audit log", "consumer", "store", "codebooks", "reader", "list"],
)
def test_a_server_that_cannot_be_reached(work, tmp_path, monkeypatch, caplog):
    pytest.importorskip("psycopg")
    for name, address in ADDRESSES.items():
        monkeypatch.setenv(name, address)
    with pytest.raises(HymirecError) as caught:
        work(Home.at(tmp_path).create())
    # Prefect keeps the tracebacks of failed flows, with everything that was raised on the way.
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert NOBODY in str(caught.value)
    assert "somebody:***@" in str(caught.value)
    assert SECRET not in caplog.text


def open_all(home):
    EventLog(home)
    stores.store_config(home)


@pytest.mark.parametrize("wrong", ["mysql:", "postgresql//", "postgresql:/"])
@pytest.mark.parametrize("name", ADDRESSES)
def test_an_address_that_is_none(wrong, name, tmp_path, monkeypatch, caplog):
    _, _, rest = ADDRESSES[name].partition(":")
    monkeypatch.setenv(name, wrong + rest)
    with pytest.raises(HymirecError) as caught:
        open_all(Home.at(tmp_path).create())
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert name in str(caught.value)
    assert SECRET not in caplog.text


def test_stores_that_answer(tmp_path, on_servers, monkeypatch, caplog, capfd):
    """PostgreSQL's server trusts whoever comes, so that any password will do."""
    for name in ("HYMIREC_REGISTRY", "HYMIREC_EVENT_LOG"):
        monkeypatch.setenv(name, os.environ[name].replace(":secret@", f":{SECRET}@"))
    home = Home.at(tmp_path)
    times = pd.to_datetime([100, 200], unit="s", utc=True)
    events = pd.DataFrame({"user_id": "u1", "item_id": ["i1", "i2"], "timestamp": times})
    codes = np.arange(6, dtype=np.uint8).reshape(2, 3)
    publishing.publish(home, CODEBOOK, events, ["i1", "i2"], codes, times[1].to_pydatetime())
    consumer = EventConsumer(home)
    consumer.event_log.append([Event("e", "u1", "i1", "click", 300)])
    consumer.catch_up()
    assert len(online.FeatureReader(home, CODEBOOK).read_user("u1").history) == 3
    assert caplog.records
    said = caplog.text + "".join(capfd.readouterr())
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (SECRET, "secret"):
        assert secret not in said
        assert secret.encode() not in kept
