"""The pipeline from files to a promoted version, and what it leaves behind."""

import contextlib
import json
import sqlite3
import uuid
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from features.definitions import service_name
from features.lineage import linked_store
from features.offline import read_histories, read_user_ids
from features.online import FeatureReader
from features.training_sets import training_set
from hymirec.home import Home
from hymirec.inputs import index_history, number_items
from hymirec.package import RecommenderPackage

STEPS = [
    "data", "validate", "encoder", "codebook", "publish", "recommender", "evaluation", "register",
    "promote",
]  # fmt: skip


@pytest.fixture(scope="module")
def client(home):
    return mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)


@pytest.fixture(scope="module")
def run(client, result):
    return client.get_run(result["run_id"])


@pytest.fixture(scope="module")
def package(home, client):
    version = client.get_model_version_by_alias("hymirec", "champion")
    mlflow.set_tracking_uri(home.mlflow_uri)
    directory = mlflow.artifacts.download_artifacts(f"models:/hymirec/{version.version}")
    (found,) = Path(directory).rglob("package.json")
    return RecommenderPackage.load(found.parent)


def test_the_result_has_the_promised_keys_and_beats_popularity(result):
    assert {"model_version", "run_id", "seconds", "metrics", "popularity"} <= result.keys()
    assert result["model_version"] == 1
    assert result["promoted"]
    assert result["metrics"]["R@10"] > 2 * result["popularity"]["R@10"]
    assert result["ran"] == STEPS
    assert result["skipped"] == []


def test_stages_are_shown_with_progress(first_run):
    stages = ("data:", "encoder: epoch 1/", "codebook:", "publish:", "recommender:", "promote:")
    for stage in stages:
        assert stage in first_run[1].stderr
    assert "Traceback" not in first_run[1].stderr


def test_mlflow_holds_settings_curves_data_and_artifacts(run, client):
    assert run.info.status == "FINISHED"
    assert run.data.params["recommender.num_interests"] == "2"
    assert run.data.tags["prefect.flow_run_id"]
    assert len(client.get_metric_history(run.info.run_id, "encoder/loss")) == 6
    assert run.data.metrics["test/R_at_10"] > run.data.metrics["popularity/R_at_10"]
    assert 0 < run.data.metrics["codebook/cosine"] <= 1
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == run.data.params["data.digest"]
    artifacts = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {"evaluation", "model_card.md"} <= artifacts


def test_the_run_tells_its_code_its_machine_and_its_card(run, client, tmp_path):
    assert len(run.data.tags["mlflow.source.git.commit"].rstrip("+")) == 40
    assert run.data.metrics["test/index_recall_at_10"] == 1  # the index is exact
    assert any(name.startswith("system/") for name in run.data.metrics)
    card = Path(client.download_artifacts(run.info.run_id, "model_card.md", tmp_path)).read_text()
    assert f"| R@10 | {run.data.metrics['test/R_at_10']:.4f} |" in card
    assert "digest " + run.data.params["data.digest"] in card
    assert client.get_model_version("hymirec", "1").description == card


def test_encoder_and_codebook_are_logged_models_of_the_run(run, client):
    found = {
        model.name: model
        for model in client.search_logged_models([run.info.experiment_id])
        if model.source_run_id == run.info.run_id
    }
    assert {"encoder", "codebook", "recommender"} <= found.keys()
    assert found["codebook"].params["codebook.num_layers"] == "3"
    assert found["encoder"].tags["digest"]
    assert found["encoder"].status == "READY"


def test_every_component_has_a_run_below_the_pipelines(run, client):
    below = client.search_runs(
        [run.info.experiment_id],
        filter_string=f"tags.mlflow.parentRunId = '{run.info.run_id}'",
        order_by=["attributes.start_time"],
    )
    assert [one.info.run_name for one in below] == [
        "validate", "train-encoder", "build-codebook", "publish-features", "train-recommender",
        "evaluate", "register", "promote",
    ]  # fmt: skip
    assert {one.info.status for one in below} == {"FINISHED"}
    encoder = below[1]
    assert encoder.data.params["first_training.num_epochs"] == "6"
    assert encoder.data.metrics["cost/seconds"] > 0
    assert encoder.data.tags["skipped"] == "false"
    assert below[5].data.metrics["test/R_at_10"] == run.data.metrics["test/R_at_10"]
    assert client.list_artifacts(below[0].info.run_id, "data_report")
    assert below[7].data.tags["standing"] == "champion"


def test_the_flow_run_links_to_its_mlflow_run(home, run):
    with contextlib.closing(sqlite3.connect(home.prefect / "prefect.db")) as database:
        rows = database.execute("select key, data, flow_run_id from artifact").fetchall()
    flow_run = uuid.UUID(run.data.tags["prefect.flow_run_id"])
    shown = {key: data for key, data, owner in rows if uuid.UUID(owner) == flow_run}
    assert shown.keys() == {
        "mlflow-run", "data-report", "validation", "evaluation", "model-version",
    }  # fmt: skip
    assert run.data.params["data.digest"] in shown["validation"]
    assert f"/runs/{run.info.run_id}" in shown["mlflow-run"]
    assert "R@10" in shown["evaluation"]


def test_the_version_says_what_it_belongs_to_and_why_it_was_promoted(client, package):
    version = client.get_model_version("hymirec", "1")
    assert version.tags["codebook_id"] == package.info.codebook_id == package.model.codebook.id
    assert version.tags["feature_service"] == f"hymirec_{package.info.codebook_id}"
    assert version.tags["gate"].startswith("passed: R@10")
    assert client.get_model_version_by_alias("hymirec", "champion").version == version.version


def test_the_model_has_signature_and_input_example(home):
    mlflow.set_tracking_uri(home.mlflow_uri)
    info = mlflow.models.get_model_info("models:/hymirec/1")
    (row,) = info.signature.inputs
    fields = {field.name: field.required for field in row.type.properties}
    assert fields == {"user_id": True, "query": False}
    assert {param.name for param in info.signature.params} == {"k", "exclude_seen"}
    assert info.saved_input_example_info


def test_prefect_keeps_the_flow_run_without_a_server(home, run):
    flow_run = uuid.UUID(run.data.tags["prefect.flow_run_id"])
    with contextlib.closing(sqlite3.connect(home.prefect / "prefect.db")) as database:
        states = dict(database.execute("select id, state_type from flow_run"))
        tasks = {
            name.rsplit("-", 1)[0]
            for name, owner in database.execute("select name, flow_run_id from task_run")
            if uuid.UUID(owner) == flow_run
        }
    assert {uuid.UUID(key): state for key, state in states.items()}[flow_run] == "COMPLETED"
    assert {"validate", "encoder", "codebook", "publish", "recommender"} <= tasks


def test_offline_row_equals_online_row_in_tensors_and_scores(home, package):
    """Users drawn at random, at random times of theirs and at the present."""
    codebook = package.info.codebook_id
    rng = np.random.default_rng(0)
    whole = read_histories(home, codebook)
    users = rng.choice(list(whole), 30, replace=False).tolist()
    times = [rng.integers(whole[user].times[0], whole[user].times[-1] + 1) for user in users]
    asked = pd.DataFrame(
        {
            "user_id": users * 2,
            "event_timestamp": pd.to_datetime([*times, *[2**32] * 30], unit="s", utc=True),
        }
    )
    index = number_items(package.items["item_id"].tolist())
    offline = training_set(home, codebook, asked)
    trained_on = offline.indexed(index)
    reader = FeatureReader(home, codebook)
    for row, (user, time) in enumerate(zip(users * 2, [*times, *[2**32] * 30], strict=True)):
        online = reader.read_user(user).history
        online = online[: int((online.times <= time).sum())]
        assert online.item_ids == offline.history(row).item_ids
        np.testing.assert_array_equal(online.codes, offline.history(row).codes)
        inputs = [
            package.model.assemble([one]) for one in (trained_on[row], index_history(online, index))
        ]
        for name, tensor in inputs[0].items():
            assert torch.equal(tensor, inputs[1][name])
        with torch.no_grad():
            assert torch.equal(*(package.model.score(one) for one in inputs))
    assert offline.rows["num_events"][:30].nunique() > 5


def test_the_run_and_the_version_lead_to_the_features_they_were_made_with(run, home, package):
    service = service_name(package.info.codebook_id)
    assert run.data.tags["feast.feature_service"] == service
    assert run.data.tags["feast.entity_count"] == str(len(read_user_ids(home, service[-12:])))
    assert linked_store(home).mlflow.resolve_features("models:/hymirec/champion") == service


def test_the_commands_on_features_read_what_the_pipeline_made(home, package, hymirec_here):
    codebook = package.info.codebook_id
    listed = hymirec_here("features", "list", "--home", home.root, "--json")
    (row,) = listed.json["codebooks"]
    assert row["codebook_id"] == codebook
    assert row["versions"] == [{"model": "hymirec", "version": 1, "aliases": ["champion"]}]
    statistics = FeatureReader(home, codebook).read_item_statistics(package.items["item_id"])
    counted = sum(one.popularity for one in statistics.values())
    assert counted == sum(map(len, read_histories(home, codebook).values()))
    shown = hymirec_here("features", "show", "--user", "u0003", "--home", home.root, "--json")
    assert shown.json["codebooks"][0]["events"][-1]["title"]
    compared = hymirec_here("features", "diff", "--home", home.root, "--json")
    assert (compared.code, compared.json["codebooks"][0]["mismatch_rate"]) == (0, 0)
    refused = hymirec_here("features", "drop", codebook, "--home", home.root)
    assert refused.code == 2
    assert refused.stderr.startswith(f"error: codebook {codebook} is needed by hymirec version 1")


def test_codes_in_the_history_are_the_codes_of_the_items(home, package):
    codebook = package.info.codebook_id
    history = read_histories(home, codebook)["u0001"]
    codes = FeatureReader(home, codebook).read_item_codes(history.item_ids)
    assert np.array_equal(history.codes, [codes[item] for item in history.item_ids])
    index = number_items(package.items["item_id"].tolist())
    rebuilt = package.model.codebook.decode(torch.from_numpy(history.codes))
    original = package.model.item_vectors()[[index[item] for item in history.item_ids]]
    assert torch.cosine_similarity(rebuilt, original).mean() > 0.8


def test_a_second_run_does_no_work_and_makes_no_new_version(hymirec, world, home, result):
    again = hymirec("pipeline", "--data", world, "--recipe", "tiny", "--home", home.root, "--json")
    assert again.code == 0, again.stderr
    assert (again.json["ran"], again.json["skipped"]) == ([], STEPS)
    assert again.json["model_version"] == result["model_version"]
    assert again.json["metrics"] == result["metrics"]


def test_two_homes_do_not_meet(home, tmp_path):
    other = Home.at(tmp_path / "other").create()
    assert mlflow.MlflowClient(other.mlflow_uri, other.mlflow_uri).search_registered_models() == []
    strays = [
        path
        for path in home.root.rglob("*.json")
        if str(tmp_path) in path.read_text(errors="ignore")
    ]
    assert strays == []


def test_evaluation_is_kept_user_by_user(home, result):
    (directory,) = home.runs.glob("evaluation-*")
    ranks = pd.read_parquet(directory / "users.parquet")
    assert len(ranks) == 120
    assert (ranks["rank"] <= 10).mean() == pytest.approx(result["metrics"]["R@10"])
    kept = json.loads((directory / "metrics.json").read_text())
    assert kept["metrics"]["R@10"] == result["metrics"]["R@10"]
