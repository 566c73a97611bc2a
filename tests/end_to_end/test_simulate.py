"""Whole experiments on simulated users, and a gateway that is killed in the middle of one."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from features.logs.experiments import ExperimentStore
from features.logs.exposures import ExposureLog
from flows.registry.lifecycle import start
from flows.runtime.settings import configure_tools
from hymirec.home import Home
from hymirec.simulation.crowd import Crowd
from hymirec.simulation.scenarios import NAME, SCENARIOS
from serving.server import free_port
from serving.simulation.stage import set_stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def simulate(*words):
    done = subprocess.run(
        [sys.executable, "-m", "hymirec", "simulate", *words, "--json"], capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def holds(found):
    low, high = found["interval"]
    return low <= found["true_lift"] <= high


@pytest.fixture(scope="module")
def better():
    return simulate("--scenario", "better")


def test_a_better_version_is_found_and_fully_ramped_without_a_person(better):
    assert (better["verdict"], better["champion"]) == ("ramped", "2")
    assert [one["action"] for one in better["decisions"]] == ["ramp", "ramp", "conclude"]
    assert better["share"] == 1.0
    assert better["true_lift"] > 0.2
    assert holds(better)


def test_an_equal_one_is_not_and_false_alarms_are_as_rare_as_they_should_be():
    found = simulate("--scenario", "equal", "--restart", "2")
    assert (found["verdict"], found["champion"], found["true_lift"]) == ("held", "1", 0.0)
    assert holds(found)
    assert (found["lost_exposures"], found["moved_users"]) == (0, 0)
    assert found["again"]["experiments"] == 300
    assert found["again"]["false_alarm_rate"] <= found["again"]["nominal_rate"]


def test_a_broken_one_is_rolled_back_before_many_have_met_it():
    found = simulate("--scenario", "broken")
    assert (found["verdict"], found["champion"]) == ("rolled_back", "1")
    assert found["challenged_of_full_exposure"] < 0.01


def test_a_broken_splitter_is_found_out():
    found = simulate("--scenario", "skewed")
    assert found["verdict"] == "paused"
    assert "sample-ratio mismatch" in found["reason"]


def test_interleaving_needs_a_fifth_of_the_users(better):
    mixed = simulate("--scenario", "better", "--mode", "interleaving")
    assert mixed["verdict"] == better["verdict"]
    assert 5 * mixed["users"] <= better["users"]


class Gateway:
    """`hymirec serve` of a home, with MLflow's own model servers; a context manager."""

    def __init__(self, home):
        self.home = home
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hymirec", "serve", "--home", self.home.root, "--port",
             str(self.port), "--replicas", "1", "--no-standby"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 300
        while not self._serves_both():
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
        time.sleep(2)  # the experiment begins at the next look
        return self

    def _serves_both(self):
        try:
            found = requests.get(f"{self.url}/version", timeout=5).json()["versions"]
        except requests.RequestException:
            return False
        return len(found) == 2 and all(one["servers"] for one in found)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def ask(self, user):
        """What was answered; None where no answer came."""
        try:
            answer = requests.post(
                f"{self.url}/v1/recommendations", json={"user_id": user, "k": 5}, timeout=30
            )
        except requests.RequestException:
            return None
        return answer.json()


def test_a_gateway_killed_in_the_middle_loses_no_exposure_and_moves_nobody(tmp_path):
    home = Home.at(tmp_path / "home").create()
    configure_tools(home)
    scenario = SCENARIOS["equal"]
    crowd = Crowd.make(200)
    set_stage(home, crowd, [scenario.champion, scenario.challenger], "hymirec", "champion")
    store = ExperimentStore(home)
    declared = scenario.experiment("ab")
    store.create(declared.model_copy(update={"ramp": declared.ramp[-1:]}))
    start(home, NAME)
    store.close()
    users = crowd.user_ids.tolist()
    answered = []
    with ThreadPoolExecutor(8) as threads:
        with Gateway(home) as gateway:
            asked = [threads.submit(gateway.ask, user) for user in users]
            while sum(one.done() for one in asked) < len(users) // 2:
                time.sleep(0.005)
            gateway.kill()
            answered += [one.result() for one in asked]
        with Gateway(home) as gateway:
            answered += threads.map(gateway.ask, users)
    came = [one for one in answered if one is not None]
    assert len(users) * 1.4 < len(came) < 2 * len(users)
    log = ExposureLog(home)
    rows = log.of_experiment(NAME)
    log.close()
    assert {one["request_id"] for one in came} <= set(rows["request_id"])
    assert not rows["request_id"].duplicated().any()
    assert rows.groupby("user_id")["variant"].nunique().max() == 1
    by_request = rows.set_index("request_id")["variant"]
    for one in came:
        assert one["variant"] == f"{NAME}/{by_request[one['request_id']]}"
