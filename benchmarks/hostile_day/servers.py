"""Stores as servers of one's own, on free ports: Debian's redis-server and PostgreSQL.

They can be killed and started again, and find then what they had acknowledged.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

START_SECONDS = 60


class NotInstalledError(Exception):
    """A server or its client is not installed; the message says how it is."""


class Server:
    """A running server; `address` is of its database 0 or `postgres`."""

    def __init__(
        self, command: Sequence[str], address: str, ready: Callable[[], bool], **options: Any
    ) -> None:
        """Start it and wait until it answers.

        Args:
            command: program and arguments.
            address: where it answers, as a URL.
            ready: whether it does.
            options: of `subprocess.Popen`.
        """
        self.command, self.address, self._ready, self._options = command, address, ready, options
        self.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rpartition(":")[2].partition("/")[0])

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def start(self) -> None:
        """Start it; after a kill, as soon as what the dead one held is free.

        Raises:
            RuntimeError: it does not answer.
        """
        deadline = time.monotonic() + START_SECONDS
        self._spawn()
        while not self._ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.command[0]} does not answer")
            time.sleep(0.05)
            if not self.running:  # memory of its predecessor's children may be in use a moment
                time.sleep(0.5)
                self._spawn()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.wait()

    def _spawn(self) -> None:
        self._process = subprocess.Popen(
            list(self.command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            **self._options,
        )  # fmt: skip


def start_redis(folder: Path) -> Server:
    """Start Redis; what it acknowledged is on disk, in a folder.

    Raises:
        NotInstalledError: it is not there.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise NotInstalledError(
            "redis-server is not installed (Debian: apt-get install redis-server)"
        )
    try:
        import redis
    except ImportError as error:
        raise NotInstalledError("the package redis is not installed (extra scale)") from error
    port = free_port()

    def ready() -> bool:
        try:
            with contextlib.closing(redis.Redis(port=port, retry=None, password="secret")) as one:
                return bool(one.ping())
        except redis.RedisError:
            return False

    command = [
        program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder),
        "--appendonly", "yes", "--appendfsync", "always", "--requirepass", "secret",
    ]  # fmt: skip
    return Server(command, f"redis://:secret@127.0.0.1:{port}", ready)


def start_postgresql(folder: Path, *, durable: bool = True) -> Server:
    """Start PostgreSQL on a new cluster.

    Args:
        folder: empty; one that another user may enter, since PostgreSQL refuses to run as root.
        durable: whether what it acknowledges survives a power cut; without, it is faster.

    Raises:
        NotInstalledError: it is not there, or there is nobody it could run as.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    found = programs[-1].parent if programs else Path(shutil.which("postgres") or "none").parent
    if not (found / "initdb").exists():
        raise NotInstalledError("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    try:
        import psycopg
    except ImportError as error:
        raise NotInstalledError("psycopg is not installed (extra scale)") from error
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres")
        except KeyError as error:
            raise NotInstalledError(
                "PostgreSQL cannot run as root, and there is no user postgres"
            ) from error
        os.chown(folder, user.pw_uid, user.pw_gid)
        owner = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    subprocess.run(
        [found / "initdb", "-D", folder / "data", "-U", "tester", "--auth=trust", "-N"],
        check=True, capture_output=True, cwd=folder, **owner,
    )  # fmt: skip
    port = free_port()
    address = f"postgresql://tester:secret@127.0.0.1:{port}/postgres"

    def ready() -> bool:
        try:
            with psycopg.connect(address):
                return True
        except psycopg.Error:
            return False

    command = [
        str(found / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder),
        "-h", "127.0.0.1", "-c", f"fsync={'on' if durable else 'off'}", "-c", "max_connections=500",
    ]  # fmt: skip
    return Server(command, address, ready, cwd=folder, **owner)


def new_database(server: Server, name: str) -> str:
    """Make an empty database of a PostgreSQL server; its address."""
    import psycopg

    with psycopg.connect(server.address, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    return server.address.replace("/postgres", f"/{name}")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
