"""What MLflow keeps of a pipeline run."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LoggedModelInput, LoggedModelStatus, Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID

from flows.runtime.settings import EXPERIMENT
from flows.steps.results import StepResult, run_step
from hymirec import __version__
from hymirec.home import Home
from hymirec.training import LogMetrics

log = logging.getLogger(__name__)

FLOW_TAG, FLOW_RUN_TAG, LOCK_TAG = "flow", "prefect.flow_run_id", "lock"
"""Of a run: the flow or component it is of, Prefect's id of the flow run, and the lock (see
`flows.runtime.locks`) that the process holds while the run goes on."""
TRAINING_LOG = "training.jsonl"
METRICS_PER_REQUEST = 1000
"""MLflow takes no more at once."""
REPOSITORY = Path(__file__).resolve().parents[2]


@contextmanager
def tracked_run(home: Home, name: str, tags: Mapping[str, str]) -> Iterator[str]:
    """Open an MLflow run and give its id; a failure inside marks it failed."""
    mlflow.set_tracking_uri(home.mlflow_uri)
    client = mlflow.MlflowClient()
    if client.get_experiment_by_name(EXPERIMENT) is None:
        client.create_experiment(EXPERIMENT, artifact_location=home.artifact_uri)
    mlflow.set_experiment(EXPERIMENT)
    tags = dict(tags) | {MLFLOW_GIT_COMMIT: source_commit()}
    with mlflow.start_run(run_name=name, tags=tags, log_system_metrics=True) as run:
        yield run.info.run_id


def close_killed(home: Home, lock: str) -> set[str]:
    """End the runs of processes that were killed; the ids of their flow runs.

    Called with the lock held: who else had it and has a run that still goes on is dead.
    """
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return set()
    found = client.search_runs(
        [experiment.experiment_id],
        filter_string=f"attributes.status = 'RUNNING' AND tags.{LOCK_TAG} = '{lock}'",
    )
    for run in found:
        client.set_terminated(run.info.run_id, "KILLED")
    return {run.data.tags.get(FLOW_RUN_TAG, "") for run in found} - {""}


def source_commit() -> str:
    """The git commit that the code is of, `+` behind it where files have changed since.

    Of an installed package, its version.
    """
    git = ["git", "-C", str(REPOSITORY)]
    try:
        # The work tree of another project that holds this one's installation says nothing.
        top = _output([*git, "rev-parse", "--show-toplevel"])
        if Path(top).resolve() == REPOSITORY:
            changed = _output([*git, "status", "--porcelain", "--untracked-files=no"])
            return _output([*git, "rev-parse", "HEAD"]) + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError) as error:
        log.debug("no git commit to tell: %s", error)  # no git, or no checkout
    return f"version {__version__}"


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def component_run(run_id: str, name: str) -> Iterator[str]:
    """Open a run for one component below a flow's run and give its id; a failure marks it failed.

    The run of a flow that consists of this component alone is taken itself.
    """
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    if run.data.tags.get(FLOW_TAG) == name:
        yield run_id
        return
    tags = tags_below(run) | {FLOW_TAG: name}
    own = client.create_run(run.info.experiment_id, run_name=name, tags=tags).info.run_id
    try:
        yield own
    except BaseException:
        client.set_terminated(own, "FAILED")
        raise
    client.set_terminated(own)


def tags_below(run: Run) -> dict[str, str]:
    """What a run below another has of it, so that `close_killed` ends it too."""
    above = run.data.tags
    tags = {tag: above[tag] for tag in (FLOW_RUN_TAG, LOCK_TAG, MLFLOW_GIT_COMMIT) if tag in above}
    return tags | {MLFLOW_PARENT_RUN_ID: run.info.run_id}


def log_step(run_id: str, done: StepResult) -> None:
    """Note in a component's run what was done for it, and what that took when it was."""
    client = mlflow.MlflowClient()
    tags = {"digest": done.digest, "skipped": str(done.skipped).lower()}
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(f"cost/{name}", value, now, 0) for name, value in done.cost.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )


def log_component(run_id: str, done: StepResult, parameters: Mapping[str, Any]) -> str:
    """Log what a step made as a model of its own, linked to the run; its id.

    A run that takes a step as it is takes the model that was logged of it as an input.
    """
    client = mlflow.MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    for known in client.search_logged_models(
        [experiment], filter_string=f"name = '{done.name}' AND tags.digest = '{done.digest}'"
    ):
        if known.status == LoggedModelStatus.READY:
            client.log_inputs(run_id, models=[LoggedModelInput(known.model_id)])
            return known.model_id
    model = client.create_logged_model(
        experiment,
        name=done.name,
        source_run_id=run_id,
        tags={"digest": done.digest},
        params={key: str(value) for key, value in parameters.items()},
        model_type=f"hymirec-{done.name}",
    )
    client.log_model_artifacts(model.model_id, str(done.directory))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model.model_id


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
        # A model that is only counted has no curves; a kill may have cut the last line short.
        entries = _entries(path) if path.exists() else []
        path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
        _replay(run_id, entries)
        known = {entry["step"] for entry in entries}

        def log(metrics: Mapping[str, float], step: int) -> None:
            if step in known:  # done again from the checkpoint before it
                return
            with path.open("a") as file:
                file.write(json.dumps({"step": step, "metrics": dict(metrics)}) + "\n")
            log_metrics(run_id, metrics, step)

        work(output, checkpoints / "trainer", log)
        shutil.copyfile(path, output / TRAINING_LOG)

    done = run_step(home, name, inputs, logged)
    if done.skipped:
        _replay(run_id, _entries(done.directory / TRAINING_LOG))
    return done


def _entries(path: Path) -> list[dict[str, Any]]:
    """Metrics by step, of the lines that are whole."""
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _replay(run_id: str, entries: Iterable[Mapping[str, Any]]) -> None:
    now = int(time.time() * 1000)
    metrics = [
        Metric(metric_name(name), value, now, entry["step"])
        for entry in entries
        for name, value in entry["metrics"].items()
    ]
    for start in range(0, len(metrics), METRICS_PER_REQUEST):
        part = metrics[start : start + METRICS_PER_REQUEST]
        mlflow.MlflowClient().log_batch(run_id, metrics=part)
