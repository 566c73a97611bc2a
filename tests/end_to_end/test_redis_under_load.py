"""The gateway under eight clients while Redis, which holds its features, stops and comes back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from load import Load, report, until

from benchmarks.hostile_day.servers import NotInstalledError, free_port, start_redis
from benchmarks.served_home import make_home
from hymirec.home import Home

pytestmark = pytest.mark.slow


@pytest.fixture
def redis_server(tmp_path):
    folder = tmp_path / "redis"
    folder.mkdir()
    try:
        server = start_redis(folder)
    except NotInstalledError as error:
        pytest.skip(str(error))
    yield server
    server.kill()


@pytest.fixture
def gateway(redis_server, tmp_path, monkeypatch):
    """`hymirec serve` as typed, on a home of an untrained model whose online store is Redis."""
    monkeypatch.setenv("HYMIREC_ONLINE_STORE", f"{redis_server.address}/1")
    home = Home.at(tmp_path / "home")
    make_home(home)
    port = free_port()
    process = subprocess.Popen(
        [Path(sys.executable).parent / "hymirec", "serve", "--home", home.root, "--port",
         str(port), "--replicas", "1", "--no-standby"],
        stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def ready():
        try:
            return requests.get(f"{url}/ping", timeout=5).ok
        except requests.ConnectionError:
            assert process.poll() is None, "the gateway ended"
            return False

    until(ready, 250)
    yield url
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


@pytest.mark.timeout(600)
def test_without_redis_answers_go_on_and_recover(gateway, redis_server):
    with Load(gateway, users=[f"e50-{number}" for number in range(8)]) as load:
        until(lambda: load.latest() is not None, 30)
        assert load.latest().degraded is None
        redis_server.kill()
        until(lambda: load.latest().degraded == "features unavailable", 10)
        time.sleep(3)
        stopped = load.since(0)
        redis_server.start()
        started = time.monotonic()
        until(lambda: load.latest().degraded is None, 10)
        print(f"whole again {time.monotonic() - started:.1f} s after Redis")
        time.sleep(1)
    report("Redis away", load.answers)
    assert len(load.answers) > len(stopped)
    assert {one.status for one in load.answers} == {200}
    assert {one.degraded for one in load.answers} == {None, "features unavailable"}
    assert {one.degraded for one in load.answers[-8:]} == {None}
