"""The recommender: trained on the histories that the feature store publishes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from features.offline import read_histories
from flows.steps.data import DataRef
from flows.steps.encode import (
    read_codebook,
    read_codes,
    read_embeddings,
    read_first_stage,
    read_items,
    source_digests,
)
from flows.steps.published import published_data
from flows.steps.ranking import in_shards
from flows.steps.results import StepResult, find_step, run_step, source_digest, step_digest
from flows.tracking.plots import recall_by_length
from flows.tracking.record import log_metrics, run_training_step
from flows.validation.frames import history_frame, prediction_frame, training_frame
from flows.validation.suites import suites_of
from flows.validation.validate import check
from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.protocol import rank_cases
from hymirec.evaluation.report import LIST_LENGTH, Catalogue, evaluate
from hymirec.evaluation.retrieval import index_recall
from hymirec.fitting import fit_recommender
from hymirec.history import History
from hymirec.home import Home
from hymirec.inputs import IndexedHistory, build_histories, index_history, number_items
from hymirec.models.hymirec import HyMiRec
from hymirec.models.popularity import PopularityRecommender
from hymirec.recipes import Recipe
from hymirec.retrieval import ItemIndex
from hymirec.schema import ITEM_ID
from hymirec.splits import LEAVE_LAST, LeaveLastSplit, Split, SplitConfig, count_items
from hymirec.training import LogMetrics

log = logging.getLogger(__name__)

RECOMMENDER, EVALUATION = "recommender", "evaluation"
USERS = "users.parquet"
INDEX_CASES = 200
"""Test cases, about, on which the index is compared with exact scores."""


def read_training_histories(
    home: Home, data: DataRef, codebook: StepResult
) -> tuple[list[str], list[IndexedHistory]]:
    """User ids and histories in the numbers of the data's items, see `published_histories`."""
    index = number_items(read_items(data)[ITEM_ID].tolist())
    histories = published_histories(home, data, codebook)
    return list(histories), [index_history(history, index) for history in histories.values()]


def published_histories(home: Home, data: DataRef, codebook: StepResult) -> dict[str, History]:
    """Histories by user id, as the feature store's offline files hold them.

    Where these hold other data by now, published since under the same codebook, they are made as
    publishing this data made them.
    """
    book = read_codebook(codebook)
    if published_data(home, book.id) == data.digest:
        return read_histories(home, book.id)
    dataset = data.read()
    ids = dataset.items[ITEM_ID].tolist()
    return build_histories(dataset.interactions, ids, read_codes(codebook), book.id)


def train_recommender(
    home: Home, data: DataRef, encoder: StepResult, codebook: StepResult, recipe: Recipe,
    run_id: str, *, split: SplitConfig = LEAVE_LAST,
) -> StepResult:  # fmt: skip
    """Train the hybrid recommender."""

    inputs = _recommender_inputs(codebook, recipe, split)

    def work(output: Path, checkpoints: Path, log_metrics: LogMetrics) -> None:
        site = training_report(home, codebook, recipe, split)
        parts = _checked_split(home, data, codebook, split, site)
        model = fit_recommender(
            read_embeddings(encoder),
            read_first_stage(encoder),
            read_codebook(codebook),
            parts,
            recipe,
            directory=checkpoints,
            log_metrics=log_metrics,
        )
        model.save(output / "recommender")

    return run_training_step(home, RECOMMENDER, inputs, run_id, work)


def _checked_split(
    home: Home, data: DataRef, codebook: StepResult, split: SplitConfig, report_dir: Path
) -> Split:
    """The split of published histories, both validated.

    Raises:
        DataError: a history or the split breaks a rule; the message names the report.
    """
    published = published_histories(home, data, codebook)
    ids = read_items(data)[ITEM_ID].tolist()
    index = number_items(ids)
    parts = split.of([index_history(history, index) for history in published.values()])
    book, now = read_codebook(codebook), datetime.now(UTC)
    frames = {
        "histories": history_frame(published, ids, book.id, now),
        "training_sets": training_frame(parts, list(published), len(ids)),
    }
    _check(home, RECOMMENDER, frames, report_dir)
    return parts


def _check(home: Home, name: str, frames: Mapping[str, pd.DataFrame], report_dir: Path) -> None:
    report = check(frames, report_dir, suites_of(home))
    for warning in report.warnings:
        log.warning("%s: %s", name, warning)
    report.raise_for_failures()


def training_report(
    home: Home, codebook: StepResult, recipe: Recipe, split: SplitConfig = LEAVE_LAST
) -> Path:
    """Where the report lies on the histories and the training set of a recommender."""
    digest = step_digest(RECOMMENDER, _recommender_inputs(codebook, recipe, split))
    return home.reports / f"{RECOMMENDER}-{digest}"


def prediction_report(home: Home, recommender: StepResult) -> Path:
    """Where the report lies on the predictions of a recommender."""
    return home.reports / f"{EVALUATION}-{step_digest(EVALUATION, _evaluation_inputs(recommender))}"


def find_recommender(home: Home, codebook: StepResult, recipe: Recipe) -> StepResult | None:
    """What `train_recommender` made, if it has been done."""
    return find_step(home, RECOMMENDER, _recommender_inputs(codebook, recipe, LEAVE_LAST))


def _recommender_inputs(
    codebook: StepResult, recipe: Recipe, split: SplitConfig
) -> dict[str, object]:
    return {
        "codebook": codebook.digest,
        "split": split.model_dump(),
        **recipe.model_dump(mode="json", include={"recommender", "training", "transitions"}),
        **source_digests(recipe.recommender.backbone),
        "code": _code(),
    }


def _code() -> str:
    here = Path(__file__)
    return source_digest(here, here.parents[1] / "validation" / "frames.py")


def evaluate_recommender(
    home: Home, data: DataRef, codebook: StepResult, recommender: StepResult, run_id: str
) -> StepResult:
    """Rank every user's test item with the model and with popularity.

    Writes `metrics.json` and, for comparisons user by user, `users.parquet`.

    Raises:
        DataError: the predictions break a rule; the message names the report.
    """

    def work(output: Path, checkpoints: Path) -> None:
        users, histories = read_training_histories(home, data, codebook)
        split = LeaveLastSplit(histories)
        items = read_items(data)
        occurrences = count_items(split.training, len(items))
        model = read_recommender(recommender)
        cases = split.test
        report = evaluate(
            model, cases, users, Catalogue.of(items, occurrences),
            answer=in_shards(recommender.directory / RECOMMENDER, checkpoints / "ranks"),
        )  # fmt: skip
        frame = prediction_frame(report.users, cases, len(items), LIST_LENGTH)
        site = prediction_report(home, recommender)
        _check(home, EVALUATION, {"predictions": frame}, site)
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
    return {"recommender": recommender.digest, "code": _code()}


def read_recommender(recommender: StepResult) -> HyMiRec:
    """The trained recommender."""
    return HyMiRec.load(recommender.directory / "recommender")


def read_metrics(evaluation: StepResult) -> dict[str, dict[str, float]]:
    """Test metrics of the model under `metrics`, of the floor under `popularity`."""
    return json.loads((evaluation.directory / "metrics.json").read_text())
