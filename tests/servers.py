"""Servers that the tests start on free ports, and stop."""

import contextlib
import shutil
import socket
import subprocess
import time

import pytest


class Server:
    """A server of the tests' own; `address` is of its database 0 or `postgres`."""

    def __init__(self, command, address, ready, **options):
        self.command, self.address, self._ready, self._options = command, address, ready, options
        self.start()

    def start(self):
        self._process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._options
        )
        deadline = time.monotonic() + 60
        while not self._ready():
            assert self._process.poll() is None, f"{self.command[0]} ended"
            assert time.monotonic() < deadline, f"{self.command[0]} does not answer"
            time.sleep(0.05)

    def stop(self):
        self._process.kill()
        self._process.wait()


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    redis = pytest.importorskip("redis", reason="the package redis is not installed (extra scale)")
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")

    def ready():
        try:
            return redis.Redis(port=port, retry=None, password="secret").ping()
        except redis.RedisError:
            return False

    # Kept on disk, so that a restart finds what there was.
    command = [
        program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder),
        "--appendonly", "yes", "--appendfsync", "always", "--requirepass", "secret",
    ]  # fmt: skip
    server = Server(command, f"redis://:secret@127.0.0.1:{port}", ready)
    yield server
    server.stop()
