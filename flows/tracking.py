"""What MLflow keeps of a pipeline run."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param

from flows.settings import EXPERIMENT
from flows.steps import StepResult, run_step
from hymirec.home import Home
from hymirec.training import LogMetrics

TRAINING_LOG = "training.jsonl"


@contextmanager
def tracked_run(home: Home, name: str, tags: Mapping[str, str]) -> Iterator[str]:
    """Open an MLflow run and give its id; a failure inside marks it failed."""
    mlflow.set_tracking_uri(home.mlflow_uri)
    client = mlflow.MlflowClient()
    if client.get_experiment_by_name(EXPERIMENT) is None:
        location = (home.mlflow / "artifacts").as_uri()
        client.create_experiment(EXPERIMENT, artifact_location=location)
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_name=name, tags=dict(tags)) as run:
        yield run.info.run_id


def metric_name(name: str) -> str:
    """Spell a metric as MLflow allows: `R@10` becomes `R_at_10`."""
    return name.replace("@", "_at_")


def log_parameters(run_id: str, parameters: Mapping[str, Any]) -> None:
    """Log parameters in one request."""
    params = [Param(key, str(value)) for key, value in parameters.items()]
    mlflow.MlflowClient().log_batch(run_id, params=params)


def log_metrics(run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Log metrics of one step in one request."""
    now = int(time.time() * 1000)
    values = [Metric(metric_name(key), value, now, step) for key, value in metrics.items()]
    mlflow.MlflowClient().log_batch(run_id, metrics=values)


def run_training_step(
    home: Home,
    name: str,
    inputs: Mapping[str, object],
    run_id: str,
    work: Callable[[Path, Path, LogMetrics], None],
) -> StepResult:
    """`run_step` for a step that trains: its curves go to the MLflow run as they come.

    They are kept in a file beside the result as well. A later run that takes the result as it is,
    or takes up an interrupted training, shows the same curves from that file.

    Args:
        home: as `run_step`.
        name: as `run_step`.
        inputs: as `run_step`.
        run_id: the MLflow run.
        work: as `run_step`, called with what logs metrics besides.
    """

    def logged(output: Path, checkpoints: Path) -> None:
        path = checkpoints / TRAINING_LOG
        path.touch()  # a model that is only counted has no curves
        _replay(run_id, path)

        def log(metrics: Mapping[str, float], step: int) -> None:
            with path.open("a") as file:
                file.write(json.dumps({"step": step, "metrics": dict(metrics)}) + "\n")
            log_metrics(run_id, metrics, step)

        work(output, checkpoints / "trainer", log)
        shutil.copyfile(path, output / TRAINING_LOG)

    done = run_step(home, name, inputs, logged)
    if done.skipped:
        _replay(run_id, done.directory / TRAINING_LOG)
    return done


def _replay(run_id: str, path: Path) -> None:
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        log_metrics(run_id, entry["metrics"], entry["step"])
