"""What a version was made with, as far as it is compared with what comes later; measured once.

n reference clicks, M codebook layers, A axes, D width, N items.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from numpy.typing import NDArray

from features.offline import read_histories
from flows.monitoring.settings import MonitorConfig
from flows.registry.served import ServedVersion
from flows.steps.register import PACKAGE_TAG
from flows.steps.results import run_step
from flows.tracking.record import metric_name
from hymirec.batch import Lists, recommend_many
from hymirec.datasets import read
from hymirec.drift import popularity_bands
from hymirec.home import Home
from hymirec.inputs import seconds
from hymirec.package import POPULARITY, RecommenderPackage
from hymirec.schema import ITEM_ID, PADDING_INDEX, TIMESTAMP, USER_ID
from hymirec.texts import item_texts

BASELINE = "baseline"
LIST_LENGTH = 10
NUM_AXES = 8
_ARRAYS, _FACTS = "baseline.npz", "baseline.json"


@dataclass(frozen=True)
class Baseline:
    """Of one version.

    Attributes:
        trained_until: second of the last event it was trained on or tested with; what is later is
            new.
        bands: int8 [N + 1], see `hymirec.drift.popularity_bands`.
        items: int64 [n], items of the reference clicks: the last ones of its data.
        lengths: int64 [users], events of every user, as many as the model reads at most.
        words: int64 [N], words of each item's text.
        center: float32 [D], mean vector of the clicked items.
        axes: float32 [A, D], directions in which they differ most, the first the most.
        users: whose rows and lists are looked at.
        listed: int64 [users, 10], what they were recommended then.
        best_scores: float32, the best score of each list that is the model's own.
        recall: R@10 at training.
    """

    trained_until: int
    bands: NDArray[np.int8]
    items: NDArray[np.int64]
    lengths: NDArray[np.int64]
    words: NDArray[np.int64]
    center: NDArray[np.float32]
    axes: NDArray[np.float32]
    users: list[str]
    listed: NDArray[np.int64]
    best_scores: NDArray[np.float32]
    recall: float


def baseline_of(
    home: Home, served: ServedVersion, package: RecommenderPackage, config: MonitorConfig
) -> Baseline:
    """Measure a version's baseline, or take the one that was measured before.

    Args:
        home: where its data and histories are.
        served: the version.
        package: its package, without items published since.
        config: sizes of samples.

    Raises:
        DataError: the data it was trained on is gone from the home.
    """

    def work(output: Path, checkpoints: Path) -> None:
        arrays, facts = _measure(home, served, package, config)
        # For NumPy's types any of the names may be `allow_pickle`.
        np.savez(output / _ARRAYS, **arrays)  # type: ignore[arg-type]
        (output / _FACTS).write_text(json.dumps(facts))

    inputs = {
        "package": served.version.tags[PACKAGE_TAG],
        "codebook": served.codebook_id,
        **config.model_dump(include={"window_events", "sample_users"}),
    }
    step = run_step(home, BASELINE, inputs, work)
    facts = json.loads((step.directory / _FACTS).read_text())
    with np.load(step.directory / _ARRAYS) as arrays:
        return Baseline(**facts, **arrays)


def best_scores(lists: Lists) -> NDArray[np.float32]:
    """The best score of each list of the model's own."""
    return lists.scores[[one == "full" for one in lists.served_by], 0]


def _measure(
    home: Home, served: ServedVersion, package: RecommenderPackage, config: MonitorConfig
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    data = read(home.data / package.info.data_digest)
    newest = data.interactions.sort_values(TIMESTAMP, kind="stable").tail(config.window_events)
    index = package.item_index
    items = newest[ITEM_ID].map(index).to_numpy(np.int64)
    vectors = package.model.item_vectors().numpy()
    center, axes = _main_axes(vectors[items])
    num_events = data.interactions[USER_ID].value_counts(sort=False)
    everybody = num_events.index.to_numpy()
    places = np.linspace(0, len(everybody) - 1, min(config.sample_users, len(everybody)))
    users = everybody[places.astype(int)].tolist()
    histories = read_histories(home, served.codebook_id, users)
    lists = recommend_many(package, [histories.get(user) for user in users], LIST_LENGTH)
    arrays = {
        "bands": popularity_bands(np.append(0, package.items[POPULARITY].to_numpy())),
        "items": items,
        "lengths": num_events.clip(upper=package.model.max_history).to_numpy(np.int64),
        "words": count_words(item_texts(data.items)),
        "center": center,
        "axes": axes,
        "listed": lists.items,
        "best_scores": best_scores(lists),
    }
    run = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri).get_run(str(served.version.run_id))
    facts = {
        "trained_until": int(seconds(newest[TIMESTAMP]).max()),
        "users": users,
        "recall": run.data.metrics[f"test/{metric_name('R@10')}"],
    }
    return arrays, facts


def count_words(texts: list[str]) -> NDArray[np.int64]:
    """Words of each text."""
    return np.array([len(text.split()) for text in texts], dtype=np.int64)


def _main_axes(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean of vectors [n, D], and the A directions in which they differ most."""
    found = torch.from_numpy(vectors)
    center = found.mean(dim=0)
    covariance = torch.cov(found.T)
    _, directions = torch.linalg.eigh(covariance)  # the least first
    return center.numpy(), directions.T.flip(0)[:NUM_AXES].contiguous().numpy()


def listed_items(items: NDArray[np.int64]) -> NDArray[np.int64]:
    """All items of lists [users, k], padding left out."""
    return items[items != PADDING_INDEX]
