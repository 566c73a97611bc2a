"""A served version is watched: quiet while people go on as before, loud when they do not."""

import shutil
import time
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest

from features.logs.event_log import Event, EventLog
from features.scan import HistoryScan
from features.updates import EventConsumer
from flows.monitor import monitor
from flows.registry.served import served_versions
from hymirec.home import Home
from hymirec.package import POPULARITY, RecommenderPackage


@pytest.fixture(scope="module")
def copied(home, tmp_path_factory):
    target = tmp_path_factory.mktemp("monitor") / "hymirec"
    shutil.copytree(home.root, target)
    return Home.at(target)


@pytest.fixture(scope="module")
def package(copied):
    (served,) = served_versions(copied)
    return RecommenderPackage.load(served.package)


@pytest.fixture(scope="module")
def histories(copied, package):
    scan = HistoryScan(copied, package.info.codebook_id)
    yield scan.groups(range(scan.num_groups))
    scan.close()


class Starter:
    """Takes down why a retrain was asked for, in place of a server that runs it."""

    def __init__(self):
        self.reasons = []

    def __call__(self, reason):
        self.reasons.append(reason)
        return SimpleNamespace(name="brave-lynx", id="1234")


@pytest.fixture
def start():
    return Starter()


def click(home, choose, seed, users):
    """Have every user click on five items, and bring the clicks into histories."""
    rng, now = np.random.default_rng(seed), int(time.time())
    events = [
        Event(f"{seed}-{user}-{n}", user, item, "click", now - 60 + n)
        for user in users
        for n, item in enumerate(choose(user, rng))
    ]
    log = EventLog(home)
    log.append(events)
    log.close()
    EventConsumer(home).catch_up()


def test_a_version_nobody_has_clicked_on_yet_is_not_judged_by_traffic(copied, start):
    found = monitor(copied, start=start)
    assert found.not_judged["served/hit_rate"] == "0 clicks since training, 300 are needed"
    assert found.values["predictions/popularity_psi"] == 0
    assert found.values["features/lag_seconds"] == 0
    assert not found.crossed
    assert not start.reasons


def test_it_is_quiet_while_people_go_on_as_before(copied, package, histories, start):
    def as_before(user, rng):
        """Two of what is recommended, and three of what the user has taken already."""
        found, _ = package.recommend(histories[user], 10)
        new = rng.choice([one.item_id for one in found], 2, replace=False)
        return [*new, *rng.choice(histories[user].item_ids[-30:], 3)]

    click(copied, as_before, 1, histories)
    found = monitor(copied, start=start)
    assert found.step == 2
    # Not all: the first click changes what is recommended before the second.
    assert found.values["served/hit_rate"] > 0.6
    assert found.values["data/popularity_psi"] < 0.25
    assert found.values["embedding/axis_ks"] < 0.2
    assert [one for one in found.crossed if one.policy == "retrain"] == []
    assert not start.reasons


def test_it_is_loud_when_they_do_not_and_asks_once_for_a_retrain(
    copied, package, histories, start, caplog
):
    rare = package.items.sort_values(POPULARITY)["item_id"].head(15).tolist()
    for seed in (2, 3, 4):
        click(copied, lambda _, rng: rng.choice(rare, 5), seed, histories)
    first, second, third = (monitor(copied, start=start) for _ in range(3))
    reasons = {one.metric for one in second.crossed if one.policy == "retrain"}
    assert {"data/popularity_psi", "served/hit_rate_ratio"} <= reasons
    assert not {one.policy for one in first.crossed} & {"retrain"}  # patience is two looks
    (reason,) = start.reasons
    assert "data/popularity_psi is" in reason
    assert second.retrain == "A retrain was started as flow run brave-lynx."
    assert third.retrain.startswith("A retrain was asked for 0.0 hours ago")
    assert [one.news for one in (first, second, third)] == [True, True, False]
    assert third.crossed == second.crossed
    assert "hymirec/1: data/popularity_psi is" in caplog.text


def test_all_looks_are_one_series_in_mlflow_with_the_report(copied):
    client = mlflow.MlflowClient(copied.mlflow_uri)
    experiment = client.get_experiment_by_name("hymirec-monitoring")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["monitored_version"] == "hymirec/1"
    series = client.get_metric_history(run.info.run_id, "served/hit_rate_ratio")
    assert [point.step for point in series] == [2, 3, 4, 5]
    (page,) = client.list_artifacts(run.info.run_id, "report")
    text = (copied.reports / "monitor" / "version-1.html").read_text()
    assert page.path == "report/version-1.html"
    assert "A retrain was asked for 0.0 hours ago" in text
    assert text.count("<svg") == len(run.data.metrics)
