"""The time series of a version: an MLflow run of its own, to which every look adds a step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow.entities import Metric

from flows.monitoring.settings import METRICS, MonitorConfig
from flows.registry.served import ServedVersion
from hymirec.home import Home

EXPERIMENT = "hymirec-monitoring"
VERSION_TAG, STEP_TAG = "monitored_version", "looks"
RETRAIN_TAG = "retrain_requested_at"


class Point(NamedTuple):
    """A value, the look it is of (from 1), and when that was in seconds since 1970 UTC."""

    step: int
    time: float
    value: float


@dataclass(frozen=True)
class Series:
    """The series of one version, by metric."""

    client: mlflow.MlflowClient
    run_id: str

    @classmethod
    def find(cls, home: Home, name: str) -> Series | None:
        """The series of a version by its name (`ServedVersion.name`); None where it has none."""
        client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return None
        named = f"tags.{VERSION_TAG} = '{name}'"
        for run in client.search_runs([experiment.experiment_id], named, max_results=1):
            return cls(client, run.info.run_id)
        return None

    @classmethod
    def of(cls, home: Home, served: ServedVersion) -> Series:
        """Find the version's series, or begin it."""
        if found := cls.find(home, served.name):
            return found
        client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        experiment_id = (
            client.create_experiment(EXPERIMENT, home.artifact_uri)
            if experiment is None
            else experiment.experiment_id
        )
        tags = {VERSION_TAG: served.name, "codebook_id": served.codebook_id, STEP_TAG: "0"}
        run = client.create_run(
            experiment_id, run_name=f"version {served.version.version}", tags=tags
        )
        client.set_terminated(run.info.run_id)  # looks are added to it all the same
        return cls(client, run.info.run_id)

    @property
    def tags(self) -> dict[str, str]:
        """Of the run."""
        return dict(self.client.get_run(self.run_id).data.tags)

    def tag(self, name: str, value: str) -> None:
        """Set a tag of the run."""
        self.client.set_tag(self.run_id, name, value)

    def read(self) -> dict[str, list[Point]]:
        """All points by metric, the oldest first."""
        known = self.client.get_run(self.run_id).data.metrics
        return {
            name: sorted(
                Point(one.step, one.timestamp / 1000, one.value)
                for one in self.client.get_metric_history(self.run_id, name)
            )
            for name in METRICS
            if name in known
        }

    def next_step(self) -> int:
        """Number of the look that comes."""
        return int(self.tags[STEP_TAG]) + 1

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the values of one look."""
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)
        self.tag(STEP_TAG, str(step))

    def note_config(self, config: MonitorConfig) -> None:
        """Keep the thresholds as they are now, beside the run's artifacts."""
        self.client.log_dict(self.run_id, config.model_dump(mode="json"), "monitor.json")

    def keep(self, page: Path) -> None:
        """Keep the report with the run."""
        self.client.log_artifact(self.run_id, str(page), "report")
