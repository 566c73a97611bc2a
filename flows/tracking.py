"""What MLflow keeps of a pipeline run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param

from flows.settings import EXPERIMENT
from hymirec.home import Home
from hymirec.training import LogMetrics


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


def training_log(run_id: str, path: Path) -> LogMetrics:
    """Log a training's metrics to a run as they come, and keep them in a file beside its result.

    A later run that takes the result as it is shows the same curves, from the file.
    """

    def log(metrics: Mapping[str, float], step: int) -> None:
        with path.open("a") as file:
            file.write(json.dumps({"step": step, "metrics": dict(metrics)}) + "\n")
        log_metrics(run_id, metrics, step)

    return log


def replay_training_log(run_id: str, path: Path) -> None:
    """Log to a run what `training_log` kept."""
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        log_metrics(run_id, entry["metrics"], entry["step"])
