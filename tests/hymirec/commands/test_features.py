"""`hymirec features`: what it prints, what it finds, what it refuses."""

import json
import os
import sqlite3
from datetime import UTC, datetime
from unittest import mock

import mlflow
import numpy as np
import pandas as pd
import publishing
import pytest
from typer.testing import CliRunner

from features import offline, online, stores, withdrawal
from features.logs.event_log import Event, EventLog
from features.updates import EventConsumer
from flows.steps.publish import publish_statistics
from hymirec.cli import app
from hymirec.errors import UsageError, VersionError
from hymirec.history import History
from hymirec.home import Home

SERVED, PAST = "0123456789ab", "ba9876543210"
ITEMS = ["a", "b", "[c]"]
CODES = {SERVED: np.arange(9, dtype=np.uint8).reshape(3, 3), PAST: np.ones((3, 2), dtype=np.uint8)}
INTERACTIONS = pd.DataFrame(
    {
        "user_id": ["u1", "u1", "u2"],
        "item_id": ["a", "b", "[c]"],
        "timestamp": pd.to_datetime([0, 86_400, 60], unit="s", utc=True),
    }
)


def publish(home, codebook_id):
    now = datetime.now(UTC)
    codes = CODES[codebook_id]
    publishing.publish(home, codebook_id, INTERACTIONS, ITEMS, codes, now)


def registry(home):
    return mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with two codebooks; version 1 needs the past one, version 2, the champion, the other.

    Its commands change nothing, but `drop`, whose test comes last and publishes again.
    """
    home = Home.at(tmp_path_factory.mktemp("home")).create()
    for codebook_id in CODES:
        publish(home, codebook_id)
    publish_statistics(home, INTERACTIONS, SERVED)
    (home.data / "digest").mkdir()
    titles = pd.DataFrame({"item_id": ITEMS, "title": ["Heat", "", "Alien [1979]"]})
    titles.to_parquet(home.data / "digest" / "items.parquet")
    client = registry(home)
    client.create_registered_model("hymirec")
    for codebook_id in (PAST, SERVED):
        client.create_model_version(
            "hymirec", str(home.root / "model"), tags={"codebook_id": codebook_id}
        )
    client.set_registered_model_alias("hymirec", "champion", "2")
    return home


@pytest.fixture
def run(home):
    """Run a command in this process; its exit status, its output, what it raised."""

    def invoke(*arguments, at=home):
        with mock.patch.dict(os.environ, {"COLUMNS": "200"}):
            return CliRunner().invoke(app, ["features", *arguments, "--home", str(at.root)])

    return invoke


def last_line(done):
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_list_names_codebooks_and_the_versions_that_need_them(run):
    done = run("list", "--json")
    assert done.exit_code == 0
    served, past = last_line(done)["codebooks"]
    assert (served["codebook_id"], past["codebook_id"]) == (SERVED, PAST)
    assert (served["num_users"], served["num_items"], served["bytes_per_item"]) == (2, 3, 3)
    assert past["bytes_per_item"] == 2
    assert served["versions"] == [{"model": "hymirec", "version": 2, "aliases": ["champion"]}]
    assert past["versions"] == [{"model": "hymirec", "version": 1, "aliases": []}]
    age = datetime.now(UTC) - datetime.fromisoformat(served["published_at"])
    assert 0 <= age.total_seconds() < 300
    assert "hymirec version 2 (champion)" in " ".join(done.stdout.split())


def test_list_of_an_empty_home_makes_nothing(run, tmp_path):
    done = run("list", at=Home.at(tmp_path / "typo"))
    assert done.exit_code == 0
    assert "no codebook is published" in done.stdout
    assert not (tmp_path / "typo").exists()


def test_show_decodes_a_user(run):
    done = run("show", "--user", "u1", "--codebook", SERVED, "--json")
    shown = last_line(done)
    assert shown["user_id"] == "u1"
    (row,) = shown["codebooks"]
    assert row["events"] == [
        {"item_id": "a", "title": "Heat", "time": "1970-01-01T00:00:00+00:00", "code": "000102"},
        {"item_id": "b", "title": "", "time": "1970-01-02T00:00:00+00:00", "code": "030405"},
    ]
    assert (row["num_events"], row["codebook_id"]) == (2, SERVED)
    assert 0 <= row["age_seconds"] < 300
    assert "2 events from 1970-01-01T00:00:00+00:00 to 1970-01-02" in done.stdout
    short = last_line(run("show", "--user", "u1", "--last", "1", "--json"))
    assert [len(one["events"]) for one in short["codebooks"]] == [1, 1]
    assert {one["num_events"] for one in short["codebooks"]} == {2}


def test_show_decodes_an_item(run):
    done = run("show", "--item", "[c]", "--json")
    shown = last_line(done)
    assert shown["title"] == "Alien [1979]"
    assert [one["code"] for one in shown["codebooks"]] == ["060708", "0101"]
    counted = shown["codebooks"][0]["statistics"]
    assert (counted["popularity"], counted["num_users"]) == (1, 1)
    assert counted["first_seen"] == counted["last_seen"] == "1970-01-01T00:01:00+00:00"
    assert "Alien [1979]" in done.stdout
    assert "1 events of 1 users" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "--user", "nobody"], "user 'nobody' is not in the feature store of "),
        (["show", "--item", "nothing"], "item 'nothing' is not in the feature store of "),
        (["show", "--user", "u1", "--codebook", "ffffffffffff"], "published: 0123456789ab, ba98"),
        (["show"], "either --user ID or --item ID"),
        (["show", "--user", "u1", "--item", "a"], "either --user ID or --item ID"),
        (["diff", "--user", "nobody"], "user 'nobody' is neither in the feature store of "),
        (["diff", "--codebook", "x"], "codebook x is not published in "),
        (["drop", "ffffffffffff"], "codebook ffffffffffff is not published in "),
        (["drop", "../mlflow"], "not 12 hexadecimal digits"),
    ],
)
def test_what_is_not_there_is_one_line(run, home, arguments, message):
    done = run(*arguments)
    assert isinstance(done.exception, UsageError)
    assert done.exception.exit_code == 2
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)
    assert (home.mlflow / "mlflow.db").exists()


def test_diff_agrees_then_names_who_differs_and_how(run, home):
    log = EventLog(home)
    log.append([Event("e1", "u2", "a", "click", 90)])
    waiting = run("diff", "--json")
    assert waiting.exit_code == 0
    assert [one["waiting"] for one in last_line(waiting)["codebooks"]] == [1, 1]
    assert "1 clicks wait in the log" in waiting.stdout
    EventConsumer(home).catch_up()
    clean = run("diff", "--json")
    assert clean.exit_code == 0
    assert last_line(clean)["codebooks"][0] == {
        "codebook_id": SERVED, "compared": 2, "mismatch_rate": 0.0, "waiting": 0, "mismatches": [],
    }  # fmt: skip
    before = online.FeatureReader(home, SERVED).read_user("u1").history
    wrong = History(["a", "[c]"], before.times, CODES[SERVED][[0, 2]], SERVED)
    online.FeatureWriter(home, SERVED).write_histories({"u1": wrong})
    try:
        done = run("diff", "--json")
        assert done.exit_code == 1
        served, past = last_line(done)["codebooks"]
        assert (served["mismatch_rate"], past["mismatch_rate"]) == (0.5, 0)
        assert served["mismatches"] == [
            {"user_id": "u1", "missing": [["b", 86_400]], "extra": [["[c]", 86_400]],
             "other_codes": [], "order": False},
        ]  # fmt: skip
        assert "user u1: 1 missing (b at 86400); 1 extra ([c] at 86400)" in done.stdout
        assert f"codebook {SERVED}: 1 of 2 users differ (50.00%)" in done.stdout
        assert run("diff", "--user", "u2").exit_code == 0
    finally:
        online.FeatureWriter(home, SERVED).write_histories({"u1": before})
    assert run("diff", "--sample", "1").exit_code == 0


def tables(home):
    with sqlite3.connect(home.feast / "online.db") as connection:
        return {name for (name,) in connection.execute("select name from sqlite_master")}


def test_drop_refuses_while_a_version_with_an_alias_needs_it(run, home):
    done = run("drop", SERVED)
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == (f"codebook {SERVED} is needed by hymirec version 2 (champion)")
    client = registry(home)
    client.set_registered_model_alias("hymirec", "challenger", "1")
    done = run("drop", PAST)
    assert str(done.exception) == f"codebook {PAST} is needed by hymirec version 1 (challenger)"
    client.delete_registered_model_alias("hymirec", "challenger")
    silent = client.create_model_version("hymirec", str(home.root / "model")).version
    client.set_registered_model_alias("hymirec", "shadow", silent)
    done = run("drop", PAST)
    assert f"may be needed by hymirec version {silent} (shadow)" in str(done.exception)
    client.delete_registered_model_alias("hymirec", "shadow")
    assert online.list_codebooks(home) == [SERVED, PAST]


def test_drop_takes_all_of_one_codebook_and_nothing_of_another(run, home, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(withdrawal.shutil, "rmtree", interrupt)
        run("drop", PAST)  # interrupted at the last step: the same command goes on
    assert online.list_codebooks(home) == [SERVED]
    assert offline.item_path(home, PAST).exists()
    done = run("drop", PAST)
    assert done.exit_code == 0, done.exception
    assert not offline.item_path(home, PAST).parent.exists()
    assert not [name for name in tables(home) if PAST in name]
    store = stores.open_store(home)
    named = [
        *store.list_feature_views(),
        *store.list_feature_services(),
        *store.list_data_sources(),
    ]
    assert not [one.name for one in named if PAST in one.name]
    with pytest.raises(VersionError, match=f"{PAST} is not published"):
        online.FeatureReader(home, PAST)
    reader = online.FeatureReader(home, SERVED)
    assert reader.read_user("u1") is not None
    assert reader.read_item_statistics(["a"])["a"].popularity == 1
    assert isinstance(run("drop", PAST).exception, UsageError)
    publish(home, PAST)  # and back
    assert online.FeatureReader(home, PAST).read_user("u1") is not None
