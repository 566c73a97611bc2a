"""The recommender: trained on the histories that the feature store publishes."""

from __future__ import annotations

import json
from pathlib import Path

from features.offline import read_histories
from flows.data import DataRef
from flows.encode import (
    read_codebook,
    read_codes,
    read_embeddings,
    read_first_stage,
    read_items,
    source_digests,
)
from flows.plots import recall_by_length
from flows.published import published_data
from flows.ranking import in_shards
from flows.steps import StepResult, find_step, run_step, source_digest
from flows.tracking import log_metrics, run_training_step
from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.protocol import rank_cases
from hymirec.evaluation.report import Catalogue, evaluate
from hymirec.evaluation.retrieval import index_recall
from hymirec.fitting import fit_recommender
from hymirec.home import Home
from hymirec.inputs import IndexedHistory, build_histories, index_history, number_items
from hymirec.models.hymirec import HyMiRec
from hymirec.models.popularity import PopularityRecommender
from hymirec.recipes import Recipe
from hymirec.retrieval import ItemIndex
from hymirec.schema import ITEM_ID
from hymirec.splits import LEAVE_LAST, LeaveLastSplit, SplitConfig, count_items
from hymirec.training import LogMetrics

RECOMMENDER, EVALUATION = "recommender", "evaluation"
USERS = "users.parquet"
INDEX_CASES = 200
"""Test cases, about, on which the index is compared with exact scores."""


def read_training_histories(
    home: Home, data: DataRef, codebook: StepResult
) -> tuple[list[str], list[IndexedHistory]]:
    """User ids and histories as the feature store's offline files hold them.

    Where these hold other data by now, published since under the same codebook, they are made as
    publishing this data made them.
    """
    dataset = data.read()
    ids = dataset.items[ITEM_ID].tolist()
    index = number_items(ids)
    book = read_codebook(codebook)
    if published_data(home, book.id) == data.digest:
        histories = read_histories(home, book.id)
    else:
        histories = build_histories(dataset.interactions, ids, read_codes(codebook), book.id)
    return list(histories), [index_history(history, index) for history in histories.values()]


def train_recommender(
    home: Home, data: DataRef, encoder: StepResult, codebook: StepResult, recipe: Recipe,
    run_id: str, *, split: SplitConfig = LEAVE_LAST,
) -> StepResult:  # fmt: skip
    """Train the hybrid recommender."""

    def work(output: Path, checkpoints: Path, log_metrics: LogMetrics) -> None:
        book = read_codebook(codebook)
        _, histories = read_training_histories(home, data, codebook)
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

    inputs = _recommender_inputs(codebook, recipe, split)
    return run_training_step(home, RECOMMENDER, inputs, run_id, work)


def find_recommender(home: Home, codebook: StepResult, recipe: Recipe) -> StepResult | None:
    """What `train_recommender` made, if it has been done."""
    return find_step(home, RECOMMENDER, _recommender_inputs(codebook, recipe, LEAVE_LAST))


def _recommender_inputs(
    codebook: StepResult, recipe: Recipe, split: SplitConfig
) -> dict[str, object]:
    return {
        "codebook": codebook.digest,
        "split": split.model_dump(),
        **recipe.model_dump(mode="json", include={"recommender", "training"}),
        **source_digests(recipe.recommender.backbone),
        "code": source_digest(Path(__file__)),
    }


def evaluate_recommender(
    home: Home, data: DataRef, codebook: StepResult, recommender: StepResult, run_id: str
) -> StepResult:
    """Rank every user's test item with the model and with popularity.

    Writes `metrics.json` and, for comparisons user by user, `users.parquet`.
    """

    def work(output: Path, checkpoints: Path) -> None:
        users, histories = read_training_histories(home, data, codebook)
        split = LeaveLastSplit(histories)
        items = read_items(data)
        occurrences = count_items(split.training, len(items))
        model = read_recommender(recommender)
        report = evaluate(
            model, split.test, users, Catalogue.of(items, occurrences),
            answer=in_shards(recommender.directory / RECOMMENDER, checkpoints / "ranks"),
        )  # fmt: skip
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

    step = run_step(home, EVALUATION, _evaluation_inputs(recommender), work)
    log_evaluation(run_id, step)
    return step


def log_evaluation(run_id: str, evaluation: StepResult) -> None:
    """Log the metrics of an evaluation as `test/…` and `popularity/…`."""
    found = read_metrics(evaluation)
    parts = (("test", found["metrics"]), ("popularity", found["popularity"]))
    log_metrics(run_id, {f"{part}/{name}": v for part, its in parts for name, v in its.items()})


def find_evaluation(home: Home, recommender: StepResult) -> StepResult | None:
    """What `evaluate_recommender` made, if it has been done."""
    return find_step(home, EVALUATION, _evaluation_inputs(recommender))


def _evaluation_inputs(recommender: StepResult) -> dict[str, object]:
    return {"recommender": recommender.digest, "code": source_digest(Path(__file__))}


def read_recommender(recommender: StepResult) -> HyMiRec:
    """The trained recommender."""
    return HyMiRec.load(recommender.directory / "recommender")


def read_metrics(evaluation: StepResult) -> dict[str, dict[str, float]]:
    """Test metrics of the model under `metrics`, of the floor under `popularity`."""
    return json.loads((evaluation.directory / "metrics.json").read_text())
