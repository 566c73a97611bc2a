"""Two or more logged runs side by side: what differs, for whom, and why it might."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from flows.registry.versions import pages
from flows.steps.data import DataRef
from flows.steps.encode import read_items
from flows.steps.train import USERS
from flows.tracking.plots import learning_curves, recall_by_length
from flows.tracking.record import metric_name
from hymirec.errors import UsageError
from hymirec.evaluation.report import LENGTH, LENGTH_EDGES, LISTED, RANK, TARGET
from hymirec.evaluation.significance import Comparison, compare, holm
from hymirec.evaluation.table import HEADLINE, per_user
from hymirec.home import Home
from hymirec.progress import SELECTION_METRIC
from hymirec.schema import ITEM_ID, PADDING_INDEX, TITLE, USER_ID

log = logging.getLogger(__name__)

NUM_USERS_SHOWN = 12
LIST_MEASURES = ("coverage", "novelty", "popularity_lift", "diversity", "calibration")
NOT_SET = "–"


@dataclass(frozen=True)
class LoggedRun:
    """What is read of a run.

    Attributes:
        label: its name, with the start of its id where two share a name.
        run: as MLflow has it.
        users: one row a user, see `hymirec.evaluation.report.Report.users`, in order of user id.
    """

    label: str
    run: Run
    users: pd.DataFrame

    @property
    def ranks(self) -> NDArray[np.float64]:
        """[U]."""
        return self.users[RANK].to_numpy()

    @property
    def metrics(self) -> dict[str, float]:
        """Test metrics under their own names."""
        prefix = "test/"
        return {
            name.removeprefix(prefix).replace("_at_", "@"): value
            for name, value in self.run.data.metrics.items()
            if name.startswith(prefix)
        }


@dataclass(frozen=True)
class Difference:
    """One metric of one run beside the first run's, over the users they share."""

    metric: str
    value: float
    found: Comparison
    p_value: float
    """Corrected for all differences of the report."""


def read_runs(home: Home, run_ids: Sequence[str]) -> list[LoggedRun]:
    """Read runs and what they said to each user.

    Args:
        home: whose MLflow store holds them.
        run_ids: whole ids, or beginnings that no two runs share.

    Raises:
        UsageError: a run is unknown, has no evaluation, or was evaluated on other data or users.
    """
    if len(run_ids) < 2:
        raise UsageError("a comparison takes two runs at least")
    if not home.has_mlflow:
        raise UsageError(f"{home.root} holds no runs")
    mlflow.set_tracking_uri(home.mlflow_uri)
    runs = [_find(run_id) for run_id in run_ids]
    if len({run.info.run_id for run in runs}) < len(runs):
        raise UsageError("a run is compared with itself")
    names = [run.info.run_name or run.info.run_id for run in runs]
    found = []
    for run, name in zip(runs, names, strict=True):
        label = f"{name} ({run.info.run_id[:6]})" if names.count(name) > 1 else name
        with tempfile.TemporaryDirectory() as directory:
            try:
                path = mlflow.artifacts.download_artifacts(
                    run_id=run.info.run_id, artifact_path=f"evaluation/{USERS}", dst_path=directory
                )
            except (MlflowException, OSError) as error:
                raise UsageError(f"run {run.info.run_id} ({name}) holds no evaluation") from error
            users = pd.read_parquet(path).sort_values(USER_ID, ignore_index=True)
        found.append(LoggedRun(label, run, users))
    first = found[0]
    for other in found[1:]:
        digests = [one.run.data.params.get("data.digest") for one in (first, other)]
        same = first.users[[USER_ID, TARGET]].equals(other.users[[USER_ID, TARGET]])
        if digests[0] != digests[1] or not same:
            raise UsageError(
                f"runs {first.label} and {other.label} were evaluated on different data: "
                f"{digests[0]} and {digests[1]}"
            )
    return found


def differences(runs: Sequence[LoggedRun]) -> dict[str, list[Difference]]:
    """Each further run against the first, by label: the headline metrics, tested user by user."""
    first, *others = runs
    found: list[tuple[str, str, float, Comparison]] = []
    for run in others:
        for metric in HEADLINE:
            before, after = (per_user([one.ranks], metric) for one in (first, run))
            found.append((run.label, metric, float(after.mean()), compare(before, after)))
    corrected = holm([one.p_value for *_, one in found])
    table: dict[str, list[Difference]] = {run.label: [] for run in others}
    for (label, metric, value, one), p_value in zip(found, corrected, strict=True):
        table[label].append(Difference(metric, value, one, p_value))
    return table


def config_differences(runs: Sequence[LoggedRun]) -> list[dict[str, str]]:
    """Parameters that are not the same in all runs: `name` and a value by run label."""
    names = sorted({name for run in runs for name in run.run.data.params})
    table = []
    for name in names:
        values = {run.label: run.run.data.params.get(name, NOT_SET) for run in runs}
        if len(set(values.values())) > 1:
            table.append({"name": name, **values})
    return table


def slice_table(runs: Sequence[LoggedRun]) -> list[dict[str, Any]]:
    """Recall by length of the history: `slice`, `cases` and R@10 by run label."""
    lengths = runs[0].users[LENGTH].to_numpy()
    table = []
    for low, high in zip(LENGTH_EDGES, (*LENGTH_EDGES[1:], None), strict=True):
        some = (lengths >= low) & (lengths < (high or np.inf))
        if some.any():
            name = f"{low} to {high - 1} events" if high else f"{low} events and more"
            values = {run.label: float((run.users[RANK][some] <= 10).mean()) for run in runs}
            table.append({"slice": name, "cases": int(some.sum()), **values})
    return table


def sample_lists(runs: Sequence[LoggedRun], items: pd.DataFrame) -> list[dict[str, Any]]:
    """Lists of some users beside each other: users on whom the runs differ first.

    Returns:
        For each user `user`, `length`, the title of the `target` and, by run, a list of
        `(title, is the target)`.
    """
    titles = ["", *items[TITLE].fillna("").where(items[TITLE].notna(), items[ITEM_ID]).astype(str)]
    hits = np.array([run.users[RANK].to_numpy() <= 10 for run in runs])
    differ = hits.any(axis=0) & ~hits.all(axis=0)
    half = NUM_USERS_SHOWN // 2
    chosen = [*_spread(np.flatnonzero(differ), half), *_spread(np.flatnonzero(~differ), half)]
    shown = []
    for user in chosen:
        row = runs[0].users.iloc[user]
        lists = {
            run.label: [
                (titles[item], item == row[TARGET])
                for item in run.users[LISTED].iloc[user]
                if item != PADDING_INDEX
            ]
            for run in runs
        }
        shown.append(
            {"user": row[USER_ID], "length": row[LENGTH], "target": titles[row[TARGET]],
             "lists": lists}
        )  # fmt: skip
    return shown


def write_report(home: Home, runs: Sequence[LoggedRun], path: Path) -> None:
    """Write the comparison as one HTML page that needs nothing else, and log it to each run."""
    digest = runs[0].run.data.params["data.digest"]
    items = read_items(DataRef("", home.data / digest, digest))
    configs = config_differences(runs)
    page = Environment(loader=PackageLoader("flows"), autoescape=True).get_template(
        "comparison.html"
    )
    text = page.render(
        runs=runs,
        headline=HEADLINE,
        list_measures=LIST_MEASURES,
        differences=differences(runs),
        slices=slice_table(runs),
        curves=learning_curves(_curves(runs), SELECTION_METRIC),
        recall_by_length=recall_by_length({run.label: run.users for run in runs}),
        shared=[row for row in configs if list(row.values()).count(NOT_SET) < len(runs) - 1],
        own=[row for row in configs if list(row.values()).count(NOT_SET) == len(runs) - 1],
        users=sample_lists(runs, items),
        digest=digest,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    for run in runs:
        mlflow.MlflowClient().log_artifact(run.run.info.run_id, str(path), "comparisons")


def _find(run_id: str) -> Run:
    client = mlflow.MlflowClient()
    runs = []
    if run_id.isalnum():  # what stands in a filter has to be
        experiments = [one.experiment_id for one in pages(client.search_experiments)]
        beginning = f"attributes.run_id LIKE '{run_id}%'"
        runs = list(pages(client.search_runs, experiment_ids=experiments, filter_string=beginning))
    if len(runs) != 1:
        what = "no run begins" if not runs else f"{len(runs)} runs begin"
        raise UsageError(f"{what} with {run_id!r}")
    return runs[0]


def _spread(users: NDArray[np.int64], count: int) -> list[int]:
    """Some users, evenly taken, by nothing that a run has a say in."""
    if not len(users):
        return []
    return users[np.unique(np.linspace(0, len(users) - 1, count).astype(int))].tolist()


def _curves(runs: Sequence[LoggedRun]) -> dict[str, list[tuple[int, float]]]:
    """Validation of every training that the runs logged."""
    client = mlflow.MlflowClient()
    ending = "/validation_" + metric_name(SELECTION_METRIC)
    found = {}
    for run in runs:
        for name in sorted(run.run.data.metrics):
            if name.endswith(ending):
                history = client.get_metric_history(run.run.info.run_id, name)
                points = [(point.step, point.value) for point in history]
                found[f"{run.label}: {name.partition('/')[0]}"] = points
    return found
