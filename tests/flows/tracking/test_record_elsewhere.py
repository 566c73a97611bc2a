"""MLflow's store and artifacts elsewhere than in the home."""

import mlflow

from flows.tracking.record import tracked_run
from hymirec.home import Home


def test_runs_and_artifacts_lie_where_the_environment_says(tmp_path, monkeypatch):
    home = Home.at(tmp_path / "home").create()
    assert not home.has_mlflow
    store, artifacts = tmp_path / "elsewhere.db", tmp_path / "artifacts"
    monkeypatch.setenv("HYMIREC_MLFLOW", f"sqlite:///{store}")
    monkeypatch.setenv("HYMIREC_ARTIFACTS", artifacts.as_uri())
    assert home.has_mlflow
    before = mlflow.get_tracking_uri()
    try:
        with tracked_run(home, "away", {}) as run_id:
            mlflow.log_text("here", "note.txt")
    finally:
        mlflow.set_tracking_uri(before)
    assert (artifacts / run_id / "artifacts" / "note.txt").read_text() == "here"
    assert store.exists()
    assert not list(home.mlflow.iterdir())


def test_without_addresses_both_lie_in_the_home(monkeypatch, tmp_path):
    for name in ("HYMIREC_MLFLOW", "HYMIREC_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    home = Home.at(tmp_path)
    assert home.mlflow_uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert home.artifact_uri == f"file://{tmp_path}/mlflow/artifacts"
