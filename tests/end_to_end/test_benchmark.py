"""Several models compared on one data set, and their runs side by side."""

import re
import shutil
import subprocess

import mlflow
import pandas as pd
import pytest

from flows.compare import read_runs
from hymirec.errors import UsageError

MODELS = ["HyMiRec", "SASRec", "SASRec, transitions", "Last-item neighbours"]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def done(hymirec, world, home):
    done = hymirec(
        "benchmark", "--data", world, "--recipe", "tiny", "--seeds", 1, "--home", home.root,
        "--models", "sasrec,hymirec,last_item", "--rate-factors", "1,0.001",
        "--transitions", "--json",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def runs(done, home):
    """MLflow's runs below the benchmark's, by model."""
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    experiment = client.get_experiment_by_name("hymirec").experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{done.json['run_id']}'")
    return {run.data.tags["model"]: run for run in found if "model" in run.data.tags}


@pytest.fixture(scope="module")
def page(hymirec, home, runs, tmp_path_factory):
    """A report on two of the runs."""
    path = tmp_path_factory.mktemp("report") / "comparison.html"
    ids = [runs[model].info.run_id for model in ("HyMiRec", "SASRec")]
    compared = hymirec("compare", ids[0][:12], ids[1], "--home", home.root, "--out", path, "--json")
    assert compared.code == 0, compared.stderr
    return path, compared


def test_the_table_has_every_model_ours_first(done):
    rows = done.json["rows"]
    assert [row["model"] for row in rows] == MODELS
    for row in rows:
        assert {
            "seed",
            "R@10",
            "R@200",
            "N@10",
            "N@200",
            "seconds",
            "length_50_100/R@10",
        } <= row.keys()
        assert len(pd.read_parquet(row["users"])) == 120
    ours, *others = done.json["table"]
    assert "R@10 p" not in ours
    for other in others:
        assert other["R@10 low"] <= other["R@10 difference"] <= other["R@10 high"]
        assert other["R@10 difference"] == pytest.approx(other["R@10"] - ours["R@10"], abs=1e-6)
    assert "SASRec" in done.stdout


def test_what_the_pipeline_has_trained_is_taken_as_it_is(done, result):
    taken = {
        line.partition(":")[0]
        for line in done.stderr.splitlines()
        if line.endswith("nothing changed, taking what is there")
    }
    taken -= {"sasrec"}  # trained when its rate was tried
    assert taken == {"data", "validate", "encoder", "codebook", "recommender"}
    assert done.json["rows"][0]["R@10"] == result["metrics"]["R@10"]


def test_every_model_that_learns_keeps_the_rate_that_validates_best(done):
    trials = done.json["trials"]
    assert [(trial["model"], trial["factor"]) for trial in trials] == [
        (model, factor) for model in ("HyMiRec", "SASRec") for factor in (1, 0.001)
    ]
    for slow, fast in (trials[1::-1], trials[:1:-1]):
        assert fast["validation N@10"] > slow["validation N@10"]  # which has not left its start
        assert fast["chosen"]
        assert not slow["chosen"]
    assert "× 0.001" in done.stdout


def test_a_baseline_may_have_what_follows_what_besides(done, runs):
    plain, besides = (row for row in done.json["rows"] if row["model"].startswith("SASRec"))
    assert besides["parameters"] == plain["parameters"]
    assert besides["N@10"] == plain["N@10"]  # validation gains nothing by them in this world
    settings = runs["SASRec, transitions"].data.params
    assert settings["settings.width"] == "32"
    assert int(settings["transitions.num_last"]) > 0
    assert not any(name.startswith("transitions.") for name in runs["SASRec"].data.params)


def test_every_model_is_a_run_below_the_benchmarks(runs):
    assert set(runs) == set(MODELS)
    sasrec = runs["SASRec"]
    assert sasrec.info.status == "FINISHED"
    assert sasrec.data.params["settings.width"] == "32"
    assert sasrec.data.metrics["test/R_at_10"] > 0
    assert sasrec.data.metrics["cost/parameters"] > 1000
    assert "sasrec/validation_N_at_10" in sasrec.data.metrics


def test_asked_again_nothing_is_trained_again(hymirec, world, home, done):
    again = hymirec(
        "benchmark", "--data", world, "--recipe", "tiny", "--seeds", 1, "--home", home.root,
        "--models", "sasrec,hymirec", "--json",
    )  # fmt: skip
    assert again.code == 0, again.stderr
    assert "epoch" not in again.stderr
    assert again.json["rows"] == done.json["rows"][:2]


def test_a_report_has_all_its_parts_and_needs_nothing_else(page):
    path, compared = page
    text = path.read_text()
    for part in ("R@10", "By length of the history", "Learning curves", "Settings that differ"):
        assert part in text
    assert not re.search(r"(src|href)=[\"'](?!#)", text)
    differences = compared.json["differences"]["SASRec, seed 0"]
    assert [one["metric"] for one in differences] == ["R@10", "R@200", "N@10", "N@200"]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1000, 390])
def test_a_browser_shows_the_report(page, tmp_path, width):
    picture = tmp_path / "page.png"
    shown = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}",
         f"--screenshot={picture}", "--dump-dom", page[0].as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert shown.returncode == 0
    assert "CONSOLE" not in shown.stderr
    assert shown.stdout.count("<svg") == 2
    assert picture.stat().st_size > 10_000


def test_a_run_that_is_unknown_or_holds_no_evaluation_is_named(home, runs, done):
    first = runs["HyMiRec"].info.run_id
    with pytest.raises(UsageError, match="no run begins with 'zzz'"):
        read_runs(home, [first, "zzz"])
    with pytest.raises(UsageError, match="holds no evaluation"):
        read_runs(home, [first, done.json["run_id"]])
    with pytest.raises(UsageError, match="compared with itself"):
        read_runs(home, [first, first])
    with pytest.raises(UsageError, match="two runs at least"):
        read_runs(home, [first])
