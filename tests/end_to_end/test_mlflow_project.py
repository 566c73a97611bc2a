"""The MLflow project file."""

import subprocess
import sys
from pathlib import Path

import mlflow
import yaml

REPOSITORY = Path(__file__).parents[2]
MLFLOW = Path(sys.executable).parent / "mlflow"


def test_mlproject_is_the_projects_file_under_the_name_mlflow_looks_for():
    assert (REPOSITORY / "MLproject").resolve() == REPOSITORY / "mlflow_project.yaml"
    project = yaml.safe_load((REPOSITORY / "MLproject").read_text())
    assert {"main", "pipeline"} <= project["entry_points"].keys()


def test_mlflow_run_drives_the_pipeline_and_its_run_is_the_pipelines(home, world, result):
    """On the home's own store, the run that `mlflow run` opens is the one the pipeline fills."""
    import os

    bin_directory = str(MLFLOW.parent)
    done = subprocess.run(
        [MLFLOW, "run", str(REPOSITORY), "-e", "pipeline", "--env-manager", "local",
         "-P", f"data={world}", "-P", "recipe=tiny", "-P", f"home={home.root}"],
        capture_output=True, text=True, timeout=280, cwd=home.root,
        env=os.environ | {
            "MLFLOW_TRACKING_URI": home.mlflow_uri,
            "PATH": bin_directory + os.pathsep + os.environ["PATH"],
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    newest = client.search_runs(experiments, order_by=["attributes.start_time DESC"])[0]
    assert newest.data.tags["mlflow.project.entryPoint"] == "pipeline"
    assert newest.data.params["name"] == "tiny"
    assert newest.data.metrics["test/R_at_10"] == result["metrics"]["R@10"]
