"""Thresholds as people write them, what a series crosses, and the word that goes out."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
import yaml
from prefect.blocks.webhook import Webhook

from flows.monitor import monitor
from flows.monitoring.report import write_report
from flows.monitoring.series import Point
from flows.monitoring.settings import FILE, METRICS, read_config
from flows.monitoring.verdict import TRENDS, crossings, trends
from flows.runtime import notify as notifying
from flows.runtime.locks import MONITOR, alone_in
from flows.runtime.notify import notify, notify_failure
from hymirec.errors import UsageError
from hymirec.home import Home


@pytest.fixture
def home(tmp_path):
    return Home.at(tmp_path / "home").create()


def written(home, **changes):
    config = read_config(Home.at("nowhere")).model_dump(exclude_none=True) | changes
    (home.root / FILE).write_text(yaml.safe_dump(config))
    return read_config(home)


def points(*values, first=1):
    return [Point(first + place, 1e9 + 600 * place, value) for place, value in enumerate(values)]


def test_two_do_not_look_at_once(home):
    ended = []

    def look():
        with pytest.raises(UsageError, match="no version of hymirec is 'champion'"):
            monitor(home)
        ended.append(1)

    other = threading.Thread(target=look)
    with alone_in(home, MONITOR):
        other.start()
        time.sleep(0.5)
        assert not ended
    other.join(10)
    assert ended


# Thresholds


def test_what_comes_with_the_package_judges_all_but_two_that_others_are_made_of(home):
    config = read_config(home)
    assert METRICS.keys() - config.thresholds.keys() == set(TRENDS.values())


def test_a_homes_own_file_goes_before_the_packages_and_a_named_one_before_both(home, tmp_path):
    assert written(home, min_events=7).min_events == 7
    other = tmp_path / "other.yaml"
    other.write_text((home.root / FILE).read_text().replace("min_events: 7", "min_events: 8"))
    assert read_config(home, other).min_events == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "colour: Extra inputs are not permitted"),
        ({"min_events": 0}, "min_events: Input should be greater than 0"),
        ({"thresholds": {"data/weather": {"above": 1}}}, "no metric is called 'data/weather'"),
        (
            {"thresholds": {"served/hit_rate": {"above": 1, "below": 0}}},
            "thresholds.served/hit_rate: either above or below is needed",
        ),
        (
            {"thresholds": {"served/hit_rate": {"below": 0, "policy": "pray"}}},
            "thresholds.served/hit_rate.policy: Input should be 'alarm' or 'retrain'",
        ),
    ],
)
def test_what_is_not_understood_is_named_with_its_place(home, changes, message):
    with pytest.raises(UsageError, match=r"monitor\.yaml: ") as caught:
        written(home, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_yaml_or_not_there_is_one_line(home, tmp_path):
    (home.root / FILE).write_text("thresholds: [")
    with pytest.raises(UsageError, match="no YAML") as caught:
        read_config(home)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_config(home, tmp_path / "none.yaml")


# Verdicts


THRESHOLDS = {
    "data/popularity_psi": {"above": 0.25, "policy": "retrain", "patience": 2},
    "served/hit_rate_ratio": {"below": 0.6},
}


@pytest.mark.parametrize(
    ("values", "crossed"),
    [
        ([0.1, 0.3], False),
        ([0.3, 0.3], True),
        ([0.3], False),  # patience is two looks
        ([0.3, 0.25, 0.3], False),
        ([0.3, 0.25], False),  # on the line is not across it
    ],
)
def test_patience_asks_for_looks_in_a_row(home, values, crossed):
    config = written(home, thresholds=THRESHOLDS)
    found = crossings({"data/popularity_psi": points(*values)}, len(values), config)
    assert bool(found) is crossed
    if crossed:
        assert str(found[0]) == "data/popularity_psi is 0.3, above 0.25"
        assert found[0].policy == "retrain"


def test_below_is_the_other_side_and_an_old_look_is_not_judged_again(home):
    config = written(home, thresholds=THRESHOLDS)
    series = {"served/hit_rate_ratio": points(0.5, first=3)}
    assert [one.metric for one in crossings(series, 3, config)] == ["served/hit_rate_ratio"]
    assert crossings(series, 4, config) == []


def test_trends_come_of_the_looks_before_and_this_one():
    series = {"served/hit_rate": points(0.4, 0.4, 0.3)}
    found, missing = trends(series, {"served/hit_rate": 0.3}, 2)
    assert found == {"served/hit_rate_trend": pytest.approx(0.75)}
    assert missing == {"served/click_through_trend": "served/click_through is not judged"}
    found, missing = trends(series, {"served/hit_rate": 0.3}, 3)
    assert not found
    assert missing["served/hit_rate_trend"] == "4 looks of 6 that are needed"


def test_the_report_says_of_every_metric_what_is_the_matter(home, tmp_path):
    config = written(home, thresholds=THRESHOLDS)
    series = {
        "data/popularity_psi": points(0.1, 0.3),
        "served/hit_rate_ratio": points(0.9, 0.5),
        "served/hit_rate": points(0.2),
    }
    path = tmp_path / "reports" / "page.html"
    write_report(
        path, version="version <7>", codebook_id="c0ffee", step=2, series=series,
        not_judged={"data/unknown_share": "no clicks"}, crossed=crossings(series, 2, config),
        config=config, retrain="A retrain is due.",
    )  # fmt: skip
    page = path.read_text()
    rows = {name: page.partition(f"<td>{name}</td>")[2].partition("</tr>")[0] for name in METRICS}
    assert "too far, waiting for 2 looks" in rows["data/popularity_psi"]
    assert 'class="alarm">alarm' in rows["served/hit_rate_ratio"]
    assert "no clicks" in rows["data/unknown_share"]
    assert "not judged" in rows["served/hit_rate"]  # it has an old look only
    assert page.count("<svg") == 3
    assert "version &lt;7&gt;" in page
    assert "1 metric is too far. A retrain is due." in page


# Word to people


@pytest.fixture
def receiver(monkeypatch):
    """An address that takes what is posted, after as many refusals as a test asks for."""
    taken, refusals = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = refusals.pop() if refusals else 200
            if status == 200:
                taken.append(body)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/hook"
    monkeypatch.setattr(notifying, "_webhook", lambda: Webhook(url=url))
    monkeypatch.setattr(notifying.time, "sleep", lambda seconds: None)
    yield SimpleNamespace(taken=taken, refusals=refusals)
    server.shutdown()
    thread.join()
    server.server_close()


def test_word_of_drift_arrives_with_its_details(receiver):
    assert notify("drift", "hymirec/3 drifts", version="hymirec/3")
    assert receiver.taken == [
        {
            "event": "drift", "text": "hymirec: hymirec/3 drifts", "flow_run": "",
            "details": {"version": "hymirec/3"},
        }
    ]  # fmt: skip


def test_a_receiver_that_fails_for_a_moment_is_asked_again(receiver):
    receiver.refusals += [503, 500]
    assert notify("drift", "still")
    assert len(receiver.taken) == 1


def test_one_that_goes_on_failing_harms_nobody(receiver, caplog):
    receiver.refusals += [503] * 3
    assert not notify("drift", "still")
    assert "the webhook did not take 'drift': status 503" in caplog.text


def test_the_address_of_a_webhook_is_never_logged(monkeypatch, caplog):
    secret = "no-scheme/services/T024BE7LD"
    monkeypatch.setattr(notifying, "_webhook", lambda: Webhook(url=secret, method="POST"))
    monkeypatch.setattr(notifying.time, "sleep", lambda seconds: None)
    assert not notify("drift", "still")
    assert "did not take 'drift'" in caplog.text
    assert secret not in caplog.text


def test_a_failed_flow_run_is_told_in_one_line(receiver):
    run = SimpleNamespace(name="wise-owl", id="42")
    state = SimpleNamespace(message="no disk\nTraceback …", name="Failed")
    notify_failure(SimpleNamespace(name="validate"), run, state)
    (found,) = receiver.taken
    assert found["text"] == "hymirec: flow validate failed: no disk"
    assert (found["event"], found["flow_run"]) == ("failure", "wise-owl")
    assert found["details"] == {"flow": "validate", "state": "Failed", "flow_run_id": "42"}


def test_without_a_block_nobody_is_told(monkeypatch):
    monkeypatch.setattr(notifying, "_webhook", lambda: None)
    assert not notify("drift", "unheard")
