"""Servers that the tests start on free ports, and stop: Debian's redis-server and PostgreSQL."""

import contextlib
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks.hostile_day.servers import (
    NotInstalledError,
    new_database,
    start_postgresql,
    start_redis,
)

STORE_VARIABLES = ("HYMIREC_ONLINE_STORE", "HYMIREC_REGISTRY", "HYMIREC_EVENT_LOG")


@pytest.fixture(autouse=True)
def _no_stores_from_outside(monkeypatch):
    for name in STORE_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    try:
        server = start_redis(tmp_path_factory.mktemp("redis"))
    except NotInstalledError as error:
        pytest.skip(str(error))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def postgresql_server():
    # A folder that another user may enter, which pytest's own are not.
    with tempfile.TemporaryDirectory(prefix="postgresql") as name:
        try:
            server = start_postgresql(Path(name), durable=False)
        except NotInstalledError as error:
            pytest.skip(str(error))
        yield server
        server.kill()


@pytest.fixture
def redis_store(redis_server):
    """Address of an empty Redis database."""
    import redis

    with contextlib.closing(redis.Redis.from_url(redis_server.address)) as client:
        client.flushall()
    return f"{redis_server.address}/1"


@pytest.fixture
def postgresql_database(postgresql_server):
    """Address of an empty PostgreSQL database."""
    return new_database(postgresql_server, f"test_{time.time_ns()}")


@pytest.fixture
def on_servers(redis_store, postgresql_database, monkeypatch):
    """Have every store of a home on servers."""
    for name, address in zip(
        STORE_VARIABLES, (redis_store, postgresql_database, postgresql_database), strict=True
    ):
        monkeypatch.setenv(name, address)


@pytest.fixture(params=["files", "servers"])
def stores(request):
    """Run a test on the files of a home, and again on Redis and PostgreSQL."""
    if request.param == "servers":
        request.getfixturevalue("on_servers")
    return request.param
