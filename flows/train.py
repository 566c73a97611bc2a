"""The recommender: trained on the histories that the feature store publishes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from features.offline import read_histories
from flows.data import DataRef
from flows.encode import (
    read_codebook,
    read_embeddings,
    read_first_stage,
    read_items,
    source_digests,
)
from flows.plots import recall_by_length
from flows.steps import StepResult, run_step
from flows.tracking import log_metrics, run_training_step
from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.protocol import rank_cases
from hymirec.evaluation.report import Catalogue, evaluate
from hymirec.evaluation.retrieval import index_recall
from hymirec.fitting import fit_recommender
from hymirec.home import Home
from hymirec.inputs import IndexedHistory, index_history, number_items
from hymirec.models.hymirec import HyMiRec
from hymirec.models.popularity import PopularityRecommender
from hymirec.recipes import Recipe
from hymirec.retrieval import ItemIndex
from hymirec.schema import ITEM_ID
from hymirec.splits import LEAVE_LAST, LeaveLastSplit, SplitConfig, count_items
from hymirec.training import LogMetrics

USERS = "users.parquet"
INDEX_CASES = 200
"""Test cases, about, on which the index is compared with exact scores."""


def read_training_histories(
    home: Home, data: DataRef, codebook_id: str
) -> tuple[list[str], list[IndexedHistory]]:
    """User ids and histories as the feature store's offline files hold them."""
    index = number_items(read_items(data)[ITEM_ID].tolist())
    histories = read_histories(home, codebook_id)
    return list(histories), [index_history(history, index) for history in histories.values()]


ReadHistories = Callable[[Home, DataRef, str], tuple[list[str], list[IndexedHistory]]]
"""From a home, its data and a codebook's id to user ids and histories."""


def train_recommender(
    home: Home, data: DataRef, encoder: StepResult, codebook: StepResult, recipe: Recipe,
    run_id: str, *, read: ReadHistories = read_training_histories,
    split: SplitConfig = LEAVE_LAST,
) -> StepResult:  # fmt: skip
    """Train the hybrid recommender; wherever histories are read from, they are the same."""

    def work(output: Path, checkpoints: Path, log_metrics: LogMetrics) -> None:
        book = read_codebook(codebook)
        _, histories = read(home, data, book.id)
        model = fit_recommender(
            read_embeddings(encoder),
            read_first_stage(encoder),
            book,
            split.of(histories),
            recipe,
            directory=checkpoints,
            log_metrics=log_metrics,
        )
        model.save(output / "recommender")

    inputs = {
        "codebook": codebook.digest,
        "split": split.model_dump(),
        **recipe.model_dump(mode="json", include={"recommender", "training"}),
        **source_digests(recipe.recommender.backbone),
    }
    return run_training_step(home, "recommender", inputs, run_id, work)


def evaluate_recommender(
    home: Home, data: DataRef, codebook: StepResult, recommender: StepResult, run_id: str
) -> StepResult:
    """Rank every user's test item with the model and with popularity.

    Writes `metrics.json` and, for comparisons user by user, `users.parquet`.
    """

    def work(output: Path, checkpoints: Path) -> None:
        book = read_codebook(codebook)
        users, histories = read_training_histories(home, data, book.id)
        split = LeaveLastSplit(histories)
        items = read_items(data)
        occurrences = count_items(split.training, len(items))
        model = read_recommender(recommender)
        report = evaluate(model, split.test, users, Catalogue.of(items, occurrences))
        popularity = rank_cases(PopularityRecommender(occurrences), split.test)
        index = ItemIndex.build(model.item_vectors().numpy())
        some = split.test[:: max(1, len(split.test) // INDEX_CASES)]
        found = {"index_recall@10": index_recall(model, index, some)}
        metrics = {"metrics": report.metrics | found, "popularity": summarise(popularity)}
        (output / "metrics.json").write_text(json.dumps(metrics, indent=2))
        table = report.users.assign(popularity_rank=popularity.numpy())
        table.to_parquet(output / USERS, index=False)
        plot = recall_by_length(
            {"HyMiRec": table, "popularity": table.assign(rank=table["popularity_rank"])}
        )
        (output / "recall_by_length.svg").write_text(plot)

    step = run_step(home, "evaluation", {"recommender": recommender.digest}, work)
    metrics = read_metrics(step)
    log_metrics(run_id, {f"test/{name}": value for name, value in metrics["metrics"].items()})
    log_metrics(
        run_id, {f"popularity/{name}": value for name, value in metrics["popularity"].items()}
    )
    return step


def read_recommender(recommender: StepResult) -> HyMiRec:
    """The trained recommender."""
    return HyMiRec.load(recommender.directory / "recommender")


def read_metrics(evaluation: StepResult) -> dict[str, dict[str, float]]:
    """Test metrics of the model under `metrics`, of the floor under `popularity`."""
    return json.loads((evaluation.directory / "metrics.json").read_text())
