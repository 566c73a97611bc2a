"""The MLflow project file."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import yaml

from flows.names import FLOWS

REPOSITORY = Path(__file__).parents[2]
MLFLOW = Path(sys.executable).parent / "mlflow"


def test_mlproject_is_the_projects_file_under_the_name_mlflow_looks_for():
    assert (REPOSITORY / "MLproject").resolve() == REPOSITORY / "mlflow_project.yaml"
    project = yaml.safe_load((REPOSITORY / "MLproject").read_text())
    assert {"main", *FLOWS} == project["entry_points"].keys()


def test_mlflow_run_drives_the_pipeline(home, world, result, tmp_path):
    done = subprocess.run(
        [MLFLOW, "run", str(REPOSITORY), "-e", "pipeline", "--env-manager", "local",
         "-P", f"data={world}", "-P", "recipe=tiny", "-P", f"home={home.root}"],
        capture_output=True, text=True, timeout=280, cwd=tmp_path,
        env=os.environ | {
            # Where `mlflow run` notes that it was asked to; the pipeline's run is in its home.
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/launches.db",
            "PATH": os.pathsep.join([str(MLFLOW.parent), os.environ["PATH"]]),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (REPOSITORY / "mlruns").exists()
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    experiment = client.get_experiment_by_name("hymirec")
    newest = client.search_runs(
        [experiment.experiment_id],
        filter_string="tags.flow = 'pipeline'",
        order_by=["attributes.start_time DESC"],
    )[0]
    assert newest.info.run_id != result["run_id"]
    assert newest.data.params["name"] == "tiny"
    assert newest.data.metrics["test/R_at_10"] == result["metrics"]["R@10"]
