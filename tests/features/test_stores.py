"""Redis and PostgreSQL in the place of files: by configuration, and when they stop."""

import os
import sys
import threading
import time
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import publishing
import pytest
from feast.infra.registry import proto_registry_utils

from features import online, stores
from features.addresses import hide_password, postgresql_url, redis_connection
from features.logs.event_log import Event, EventLog
from features.updates import EventConsumer
from hymirec.errors import HymirecError, UsageError, VersionError
from hymirec.home import Home

CODEBOOK, NEXT = "0123456789ab", "ba9876543210"
ITEMS = ["i1", "i2", "i3"]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def publish(home, codebook_id=CODEBOOK, num_users=3):
    users = [f"u{number}" for number in range(num_users)]
    interactions = pd.DataFrame(
        {
            "user_id": np.repeat(users, 2),
            "item_id": np.tile(["i1", "i2"], num_users),
            "timestamp": pd.to_datetime(np.tile([100, 200], num_users), unit="s", utc=True),
        }
    )
    codes = np.arange(9, dtype=np.uint8).reshape(3, 3)
    publishing.publish(home, codebook_id, interactions, ITEMS, codes, NOW)


def test_feast_makes_no_other_process_count_in_a_folder_of_this_ones():
    assert not [name for name in os.environ if name.startswith("PROMETHEUS_")]


def items_of(home, user_id, codebook_id=CODEBOOK):
    return online.FeatureReader(home, codebook_id).read_user(user_id).history.item_ids


def test_nothing_of_a_home_on_servers_is_in_files(tmp_path, on_servers):
    home = Home.at(tmp_path)
    assert online.list_codebooks(home) == []  # and asking makes no table
    with pytest.raises(VersionError, match=r"in postgresql://tester:\*\*\*@127.0.0.1:.*: nothing"):
        online.FeatureReader(home, CODEBOOK)
    publish(home)
    assert items_of(home, "u1") == ["i1", "i2"]
    assert not list(home.root.rglob("*.db"))
    elsewhere = Home.at(tmp_path / "another machine")
    assert items_of(elsewhere, "u1") == ["i1", "i2"]
    publish(elsewhere, NEXT)
    assert online.list_codebooks(home) == [CODEBOOK, NEXT]


def test_what_feast_remembers_of_a_registry_is_told_from_what_came_before(
    tmp_path, on_servers, monkeypatch
):
    """It goes by addresses of memory, and what is freed leaves its address to what comes next."""
    monkeypatch.setattr(proto_registry_utils, "id", lambda _: 1, raising=False)
    home = Home.at(tmp_path)
    for codebook_id in (CODEBOOK, NEXT):
        publish(home, codebook_id)
        assert items_of(home, "u1", codebook_id) == ["i1", "i2"]


def test_a_late_click_counts_on_redis(tmp_path, on_servers):
    """Feast by itself would drop a row whose last event is no later than the stored row's."""
    home = Home.at(tmp_path)
    publish(home)
    consumer = EventConsumer(home)
    consumer.event_log.append([Event("e", "u1", "i3", "click", 150)])
    consumer.catch_up()
    assert items_of(home, "u1") == ["i1", "i3", "i2"]


def test_reads_go_on_while_publishing_on_servers(tmp_path, on_servers):
    home = Home.at(tmp_path)
    publish(home, num_users=2000)
    reader = online.FeatureReader(home, CODEBOOK)
    done, failures = threading.Event(), []

    def publish_again():
        try:
            publish(home, num_users=2000)
            publish(home, NEXT, num_users=2000)
        except BaseException as failure:
            failures.append(failure)
        done.set()

    thread = threading.Thread(target=publish_again)
    thread.start()
    num_reads = 0
    while not done.is_set():
        assert reader.read_user("u7").history.item_ids == ["i1", "i2"]
        assert CODEBOOK in online.list_codebooks(home)
        num_reads += 1
    thread.join()
    assert failures == []
    assert num_reads > 5
    assert items_of(home, "u7", NEXT) == ["i1", "i2"]


def test_a_stopped_redis_is_one_line_and_a_started_one_is_found(
    tmp_path, redis_server, redis_store, monkeypatch
):
    monkeypatch.setenv("HYMIREC_ONLINE_STORE", redis_store)
    home = Home.at(tmp_path)
    publish(home)
    reader = online.FeatureReader(home, CODEBOOK)
    redis_server.kill()
    started = time.monotonic()
    try:
        with pytest.raises(HymirecError) as caught:
            reader.read_user("u1")
        assert time.monotonic() - started < 1  # a request can still be served without
        with pytest.raises(HymirecError, match="cannot be used"):
            online.FeatureReader(home, CODEBOOK)
    finally:
        redis_server.start()
    message = str(caught.value)
    assert message.startswith("online store redis://:***@127.0.0.1:")
    assert "/1 cannot be used: ConnectionError" in message
    assert "secret" not in message
    assert "\n" not in message
    assert reader.read_user("u1").history.item_ids == ["i1", "i2"]


def test_a_stopped_postgresql_is_one_line_and_a_started_one_is_found(
    tmp_path, postgresql_server, on_servers
):
    home = Home.at(tmp_path)
    publish(home)
    reader, log = online.FeatureReader(home, CODEBOOK), EventLog(home)
    log.append([Event("e1", "u1", "i3", "click", 150)])
    postgresql_server.kill()
    try:
        assert reader.read_user("u1").history.item_ids == ["i1", "i2"]  # needs Redis alone
        with pytest.raises(HymirecError) as of_registry:
            online.FeatureReader(home, CODEBOOK)
        with pytest.raises(HymirecError) as of_log:
            log.append([Event("e2", "u1", "i3", "click", 151)])
    finally:
        postgresql_server.start()
    for caught, name in ((of_registry, "registry"), (of_log, "event log")):
        message = str(caught.value)
        assert message.startswith(f"{name} postgresql")
        assert "tester:***@127.0.0.1:" in message
        assert "secret" not in message
        assert "\n" not in message
    assert [one.event.event_id for one in log.after(0)] == ["e1"]
    assert items_of(home, "u1") == ["i1", "i2"]
    log.close()


def test_addresses():
    url = "postgresql://me:p%40ss@db:5433/features"
    assert postgresql_url("X", url) == (
        "postgresql+psycopg://me:p%40ss@db:5433/features?connect_timeout=5"
    )
    assert postgresql_url("X", f"{url}?connect_timeout=1").endswith("?connect_timeout=1")
    assert hide_password(url) == "postgresql://me:***@db:5433/features"
    wait = "socket_timeout=5,socket_connect_timeout=5"
    assert redis_connection("X", "redis://cache") == f"cache:6379,db=0,{wait}"
    assert redis_connection("X", "rediss://me:12%22@cache:7/3") == (
        f'cache:7,db=3,{wait},ssl=true,username="me",password="12\\""'
    )


@pytest.mark.parametrize(
    ("variable", "address", "reason"),
    [
        ("HYMIREC_ONLINE_STORE", "db://me:secret@x", r"db://me:\*\*\*@x is not a redis"),
        ("HYMIREC_ONLINE_STORE", "redis://:secret@x/one", "does not end in a database number"),
        ("HYMIREC_ONLINE_STORE", "redis://:secret@x:port", "is not a redis"),
        ("HYMIREC_ONLINE_STORE", "redis://:secret,2@x", "cannot have a comma"),
        ("HYMIREC_ONLINE_STORE", "secret", "is not a redis"),
        ("HYMIREC_REGISTRY", "mysql://me:secret@x/y", r"mysql://me:\*\*\*@x/y is not a postgresql"),
    ],
)  # fmt: skip
def test_a_wrong_address_is_one_line_without_the_password(
    tmp_path, monkeypatch, variable, address, reason
):
    monkeypatch.setenv(variable, address)
    with pytest.raises(UsageError, match=reason) as caught:
        stores.store_config(Home.at(tmp_path))
    assert str(caught.value).startswith(f"{variable}: ")
    assert "secret" not in str(caught.value)


def test_a_store_whose_package_is_missing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "feast.infra.online_stores.redis", raising=False)
    monkeypatch.setenv("HYMIREC_ONLINE_STORE", "redis://x")
    with pytest.raises(UsageError, match=r"pip install 'hymirec\[scale\]'$"):
        stores.store_config(Home.at(tmp_path))
