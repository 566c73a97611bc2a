"""Nothing acknowledged is lost or doubled, whoever is killed meanwhile."""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import publishing
import pytest
import requests

from features import online
from features.logs.event_log import EventLog
from features.updates import EventConsumer
from hymirec.home import Home
from serving.server import free_port

CODEBOOK = "0123456789ab"
USERS = [f"u{n}" for n in range(50)]
ITEMS = [f"i{n}" for n in range(40)]
INTAKE = """
import sys, uvicorn
from hymirec.home import Home
from serving.gateway import create_app

class NoModels:  # events need none

    def look_now(self):
        pass

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

uvicorn.run(create_app(Home.at(sys.argv[1]), NoModels()), port=int(sys.argv[2]), log_level="error")
"""


@pytest.fixture
def home(tmp_path):
    home = Home.at(tmp_path).create()
    codes = np.arange(len(ITEMS) * 3, dtype=np.uint8).reshape(-1, 3)
    published = pd.DataFrame(
        {"user_id": USERS[:5], "item_id": ITEMS[:5],
         "timestamp": pd.to_datetime([1] * 5, unit="s", utc=True)}
    )  # fmt: skip
    now = datetime.now(UTC)
    publishing.publish(home, CODEBOOK, published, ITEMS, codes, now)
    return home


class Killed:
    """A process that is started again whenever it is killed."""

    def __init__(self, command):
        self.command = [str(part) for part in command]
        self.kills = 0
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
        )

    @property
    def running(self):
        return self.process.poll() is None

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.kills += 1
        self.start()

    def stop(self):
        self.process.kill()
        self.process.wait()


class Sender:
    """Posts events until each is acknowledged; what was not is sent again, as a client would."""

    def __init__(self, url, num_events, batch):
        rng = random.Random(0)
        self.events = [
            {"event_id": n, "user_id": rng.choice(USERS), "item_id": rng.choice(ITEMS),
             "kind": "click", "time": rng.randrange(1000)}
            for n in range(num_events)
        ]  # fmt: skip
        self.url, self.batch, self.sent = url, batch, 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with requests.Session() as session:
            while self.sent < len(self.events):
                part = self.events[self.sent : self.sent + self.batch]
                try:
                    answer = session.post(f"{self.url}/v1/events", json={"events": part}, timeout=9)
                except requests.RequestException:
                    time.sleep(0.05)
                    continue
                if answer.status_code == 200:
                    self.sent += len(part)


class Store:
    """A server of a store, killed and started again."""

    running = True

    def __init__(self, server):
        self.server, self.kills = server, 0

    def kill(self):
        self.server.kill()
        self.kills += 1
        time.sleep(0.5)
        self.server.start()

    def stop(self):
        """It is the fixture's to stop."""


def stream(home, num_events, num_kills, stores=()):
    """Send events and kill intake, consumer and stores in turn; what was sent."""
    port = free_port("127.0.0.1")
    follow = [Path(sys.executable).parent / "hymirec", "events", "follow", "--home", home.root]
    processes = [
        Killed([sys.executable, "-c", INTAKE, home.root, port]), Killed(follow),
        *map(Store, stores),
    ]  # fmt: skip
    sender = Sender(f"http://127.0.0.1:{port}", num_events, batch=100)
    try:
        while sender.sent == 0:  # the first start imports everything
            assert all(process.running for process in processes)
            time.sleep(0.1)
        for kill in range(num_kills):
            goal = (kill + 0.5) * num_events / num_kills
            while sender.sent < goal and sender.thread.is_alive():
                time.sleep(0.01)
            processes[kill % len(processes)].kill()
        sender.thread.join()
    finally:
        for process in processes:
            process.stop()
    assert sum(process.kills for process in processes) == num_kills
    return sender.events


def check(home, events):
    EventConsumer(home).catch_up()
    assert EventLog(home).end >= len(events)
    rows = online.FeatureReader(home, CODEBOOK).read_users(USERS)
    expected = {user: Counter() for user in USERS}
    for user, item in zip(USERS[:5], ITEMS[:5], strict=True):
        expected[user][item, 1] += 1
    sent = {user: Counter() for user in USERS}
    for event in events:
        sent[event["user_id"]][event["item_id"], event["time"]] += 1
    for user in USERS:
        history = rows[user].history
        found = Counter(zip(history.item_ids, history.times.tolist(), strict=True))
        assert found == expected[user] | sent[user]  # the larger count of each
        assert (np.diff(history.times) >= 0).all()


def test_killing_intake_and_consumer_loses_and_doubles_nothing(home):
    check(home, stream(home, 5_000, 2))


def test_killing_the_stores_as_well_loses_and_doubles_nothing(
    on_servers, home, redis_server, postgresql_server
):
    check(home, stream(home, 3_000, 4, [redis_server, postgresql_server]))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_hundred_thousand_events_survive_twenty_kills(home):
    check(home, stream(home, 100_000, 20))
