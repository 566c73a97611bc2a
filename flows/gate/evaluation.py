"""What two versions say about the same users, from the same frozen data."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from flows.registry.served import fetch_model
from flows.runtime.settings import CODEBOOK_TAG
from flows.steps.register import PACKAGE_TAG
from flows.steps.results import note_use, step_digest
from hymirec.additions import publications
from hymirec.datasets import read as read_data
from hymirec.datasets.base import Dataset
from hymirec.errors import HymirecError, UsageError
from hymirec.evaluation.lists import list_measures
from hymirec.evaluation.protocol import rank_cases
from hymirec.evaluation.report import Catalogue
from hymirec.home import Home
from hymirec.inputs import IndexedHistory, index_interactions, number_items
from hymirec.models.popularity import PopularityRecommender
from hymirec.schema import ITEM_ID, TITLE, USER_ID
from hymirec.splits import LeaveLastSplit, count_items

log = logging.getLogger(__name__)

WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Questions:
    """Whom both versions are asked about.

    Attributes:
        digest: of the data.
        dataset: it.
        users: ids, [U].
        known: what was known of each, in the data's item indices.
        targets: int64 [U], the data's item indices.
        occurrences: int64 [N + 1], events of each item in training.
        popularity_ranks: [U], of the targets by popularity alone.
    """

    digest: str
    dataset: Dataset
    users: list[str]
    known: list[IndexedHistory]
    targets: NDArray[np.int64]
    occurrences: NDArray[np.int64]
    popularity_ranks: NDArray[np.float64]

    @classmethod
    def of(cls, home: Home, digest: str, max_users: int) -> Questions:
        """Everybody's last event, all that came before being known.

        Raises:
            UsageError: the home no longer holds the data, or nobody knows which it is.
        """
        if not digest:
            raise UsageError(
                "the version does not say which data it was trained on: it is not a pipeline's"
            )
        if not (home.data / digest).is_dir():
            raise UsageError(
                f"{home.data / digest} is gone: the gate needs the data that the version was "
                "trained on; `hymirec pipeline` on it brings it back"
            )
        dataset = read_data(home.data / digest)
        index = number_items(dataset.items[ITEM_ID].tolist())
        split = LeaveLastSplit(index_interactions(dataset.interactions, index))
        counts = count_items(split.training, len(index))
        cases = split.test
        if len(cases) > max_users:
            drawn = np.linspace(0, len(cases) - 1, max_users).round().astype(int)
            cases = [cases[place] for place in drawn]
        ids = dataset.interactions[USER_ID].drop_duplicates().tolist()
        return cls(
            digest,
            dataset,
            [ids[case.user] for case in cases],
            [case.known for case in cases],
            np.array([case.target for case in cases]),
            counts.numpy(),
            rank_cases(PopularityRecommender(counts), cases).double().numpy(),
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[U], events known."""
        return np.array([len(history) for history in self.known])

    @property
    def cold(self) -> NDArray[np.bool_]:
        """[U], whether the target has no event in training."""
        return self.occurrences[self.targets] == 0

    def write(self, path: Path) -> None:
        """Write them by item ids, as any version's code understands them."""
        names = np.array(["", *self.dataset.items[ITEM_ID]], dtype=object)
        table = pd.DataFrame(
            {
                "user": self.users,
                "items": [names[history.items].tolist() for history in self.known],
                "times": [history.times for history in self.known],
                "target": names[self.targets],
            }
        )
        table.to_parquet(path, index=False)


@dataclass(frozen=True)
class Evaluated:
    """What one version says.

    Attributes:
        version: its number.
        ranks: [U], of the targets; infinite where its catalogue has not the target.
        lists: of ten item ids, [U], empty where there are no more.
        items: its catalogue, ids and titles.
        codebook: see `hymirec.codebook.Codebook.health`.
        overlap: mean cosine between two interests of a user.
        published_since: items that were published since it was registered, which it was given.
    """

    version: str
    ranks: NDArray[np.float64]
    lists: list[list[str]]
    items: pd.DataFrame
    codebook: dict[str, float]
    overlap: float
    published_since: int

    @classmethod
    def read(cls, version: str, directory: Path) -> Evaluated:
        """Read what the worker wrote."""
        answers = pd.read_parquet(directory / "answers.parquet")
        model: dict[str, Any] = json.loads((directory / "model.json").read_text())
        return cls(
            version, answers["rank"].to_numpy(), [list(row) for row in answers["listed"]],
            pd.read_parquet(directory / "items.parquet"), model["codebook"], model["overlap"],
            model["published_since"],
        )  # fmt: skip


def evaluate_versions(
    home: Home, client: MlflowClient, versions: Sequence[ModelVersion], questions: Questions
) -> list[Evaluated]:
    """Ask versions, each by the code it ships in a process of its own, all at once.

    What a version said is kept: asked again, it is not asked.

    Raises:
        HymirecError: one cannot be evaluated; the message has the last line of its process.
    """
    with ThreadPoolExecutor(len(versions)) as pool:
        return list(pool.map(lambda one: _evaluate(home, client, one, questions), versions))


def list_metrics(questions: Questions, evaluated: Sequence[Evaluated]) -> list[dict[str, float]]:
    """Measures of each version's lists, see `hymirec.evaluation.lists.list_measures`.

    Items that a version has beside the data's count as items without an event.
    """
    items = questions.dataset.items
    known = set(items[ITEM_ID])
    more = pd.concat([one.items for one in evaluated]).drop_duplicates(ITEM_ID)
    more = more[~more[ITEM_ID].isin(known)]
    catalogue = pd.concat([items, more[[ITEM_ID, TITLE]]], ignore_index=True)
    occurrences = np.pad(questions.occurrences, (0, len(more)))
    measured = Catalogue.of(catalogue, torch.from_numpy(occurrences))
    index = number_items(catalogue[ITEM_ID].tolist())
    return [
        list_measures(
            np.array([[index.get(item, 0) for item in row] for row in one.lists]),
            questions.known, measured.occurrences, measured.words, measured.categories,
        )
        for one in evaluated
    ]  # fmt: skip


def _evaluate(
    home: Home, client: MlflowClient, version: ModelVersion, questions: Questions
) -> Evaluated:
    number = str(version.version)
    additions = home.catalogue / version.tags[CODEBOOK_TAG]
    inputs = {
        "package": version.tags.get(PACKAGE_TAG, str(version.source)),
        "data": questions.digest,
        "users": len(questions.users),
        "additions": [path.name for path in publications(additions)],
        "worker": WORKER.read_text(),
    }
    done = home.runs / f"gate-{step_digest('gate', inputs)}"
    if not done.is_dir():
        log.info("gate: asking version %s about %d users", number, len(questions.users))
        with tempfile.TemporaryDirectory(dir=home.runs) as directory:
            out = Path(directory) / "out"
            out.mkdir()
            questions.write(Path(directory) / "cases.parquet")
            model = fetch_model(home, client, version)
            _run_worker(number, model, additions, Path(directory) / "cases.parquet", out)
            try:
                out.rename(done)
            except OSError:  # another gate has been faster
                if not done.is_dir():
                    raise
    note_use(done)
    return Evaluated.read(number, done)


def _run_worker(version: str, model: Path, additions: Path, cases: Path, out: Path) -> None:
    command = [
        sys.executable, "-I", WORKER, model / "code", model / "artifacts" / "package", additions,
        cases, out,
    ]  # fmt: skip
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise HymirecError(f"version {version} in {model} cannot be evaluated: {last}")
