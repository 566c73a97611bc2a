"""The gateway under eight clients while things change and break behind it."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
import requests
from load import CLIENTS, Load, report, until

from serving.server import free_port

pytestmark = pytest.mark.slow

SWITCHES = 10


@pytest.fixture(scope="module")
def registry(home):
    """The home's registry, with a challenger: another version of the same model."""
    # Of the process, too: a version of a logged model is looked for where that says.
    mlflow.set_tracking_uri(home.mlflow_uri)
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    first = client.get_model_version("hymirec", "1")
    # Not always 2: numbers of versions that other tests have deleted are not given again.
    other = client.create_model_version(
        "hymirec", source=first.source, run_id=first.run_id, tags=first.tags
    )
    client.set_registered_model_alias("hymirec", "champion", "1")
    client.set_registered_model_alias("hymirec", "challenger", other.version)
    yield client
    client.set_registered_model_alias("hymirec", "champion", "1")
    client.delete_registered_model_alias("hymirec", "challenger")
    client.delete_model_version("hymirec", other.version)


@pytest.fixture(scope="module")
def gateway(home, registry):
    """`hymirec serve` as typed, with champion and challenger ready."""
    port = free_port("127.0.0.1")
    program = Path(sys.executable).parent / "hymirec"
    command = [program, "serve", "--home", home.root, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def all_ready():
        try:
            state = requests.get(f"{url}/version", timeout=5).json()
        except requests.ConnectionError:
            return False
        return [one["servers"] for one in state["versions"]] == [2, 1]

    until(all_ready, 280)
    yield url
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def server_pids(home):
    """Of model servers: those whose command line names standby.py and whose home is this one."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if b"standby.py" in (place / "cmdline").read_bytes() and (
                f"HYMIREC_HOME={home.root}\0".encode() in (place / "environ").read_bytes()
            ):
                found.append(int(place.name))
        except OSError:
            continue
    return sorted(found)


def test_ten_promotions_and_rollbacks_fail_nobody(gateway, registry):
    challenger = str(registry.get_model_version_by_alias("hymirec", "challenger").version)
    visible = []
    with Load(gateway) as load:
        until(lambda: load.latest() is not None, 30)
        for version in [challenger, "1"] * (SWITCHES // 2):
            registry.set_registered_model_alias("hymirec", "champion", version)
            moved = time.monotonic()
            until(lambda version=version: load.latest().version == version, 30)
            visible.append(time.monotonic() - moved)
            settled = time.monotonic()
            time.sleep(1)
            # Whoever asked after the switch was seen is answered by the new version alone.
            assert {one.version for one in load.since(settled) if one.status == 200} == {version}
    report("ten switches", load.answers)
    print("visible after", [f"{seconds:.2f}" for seconds in visible])
    assert {one.status for one in load.answers} == {200}
    assert {one.degraded for one in load.answers} == {None}
    assert max(visible) < 5
    assert max(one.seconds for one in load.answers) < 0.5


def test_a_killed_model_server_costs_nobody_an_answer(gateway, home):

    def whole():
        state = requests.get(f"{gateway}/version", timeout=5).json()
        return all(one["servers"] == one["wanted"] for one in state["versions"])

    until(whole, 200)
    with Load(gateway) as load:
        until(lambda: load.latest() is not None, 30)
        servers = requests.get(f"{gateway}/version", timeout=5).json()
        restarts = sum(one["restarts"] for one in servers["versions"])
        os.kill(server_pids(home)[0], signal.SIGKILL)  # the first started: one that answers
        killed = time.monotonic()

        def back():
            state = requests.get(f"{gateway}/version", timeout=5).json()
            return whole() and sum(one["restarts"] for one in state["versions"]) > restarts

        until(back, 60)
        print(f"back after {time.monotonic() - killed:.1f} s")
        assert time.monotonic() - killed < 15
    report("one server killed", load.answers)
    assert {one.status for one in load.answers} == {200}
    assert sum(one.degraded is not None for one in load.answers) <= CLIENTS


def test_without_the_online_store_answers_go_on(gateway, home):
    (store,) = (path for path in home.feast.glob("*.db") if "online" in path.name)
    with closing(sqlite3.connect(store)) as connection:
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
            if "histories" in name
        ]
    with Load(gateway) as load:
        until(lambda: load.latest() is not None, 30)
        rename(store, {name: f"hidden_{name}" for name in tables})
        until(lambda: load.latest().degraded == "features unavailable", 10)
        time.sleep(2)
        rename(store, {f"hidden_{name}": name for name in tables})
        until(lambda: load.latest().degraded is None, 10)
    report("online store away", load.answers)
    assert {one.status for one in load.answers} == {200}
    assert {one.degraded for one in load.answers} == {None, "features unavailable"}


def rename(store, names):
    with closing(sqlite3.connect(store, timeout=30)) as connection, connection:
        for old, new in names.items():
            connection.execute(f'ALTER TABLE "{old}" RENAME TO "{new}"')
