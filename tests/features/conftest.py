"""Stores on servers: Debian's redis-server and PostgreSQL."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from servers import Server, free_port, redis_server

__all__ = ["redis_server"]
STORE_VARIABLES = ("HYMIREC_ONLINE_STORE", "HYMIREC_REGISTRY", "HYMIREC_EVENT_LOG")


@pytest.fixture(autouse=True)
def _no_stores_from_outside(monkeypatch):
    for name in STORE_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def postgresql_server():
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    found = programs[-1].parent if programs else Path(shutil.which("postgres") or "none").parent
    if not (found / "initdb").exists():
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed (extra scale)")
    owner = {}
    # A folder that another user may enter, which pytest's own are not.
    with tempfile.TemporaryDirectory(prefix="postgresql") as name:
        folder = Path(name)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            try:
                user = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("PostgreSQL cannot run as root, and there is no user postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            owner = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        subprocess.run(
            [found / "initdb", "-D", folder / "data", "-U", "tester", "--auth=trust", "-N"],
            check=True, capture_output=True, cwd=folder, **owner,
        )  # fmt: skip
        port = free_port()
        address = f"postgresql://tester:secret@127.0.0.1:{port}/postgres"

        def ready():
            try:
                with psycopg.connect(address):
                    return True
            except psycopg.Error:
                return False

        command = [
            str(found / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder),
            "-h", "127.0.0.1", "-c", "fsync=off", "-c", "max_connections=500",
        ]  # fmt: skip
        server = Server(command, address, ready, cwd=folder, **owner)
        yield server
        server.stop()


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
    import psycopg

    name = f"test_{time.time_ns()}"
    with psycopg.connect(postgresql_server.address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    return postgresql_server.address.replace("/postgres", f"/{name}")


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
