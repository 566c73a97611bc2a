"""From data to trained models: the stages of a run, in the order they depend on each other.

Each is a plain function that takes data and settings, trains in a directory that holds its
checkpoints, and returns the model; whoever calls decides what is kept and tracked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from hymirec.catalogue import Elsewhere, make_tower
from hymirec.checkpoints import check_settings
from hymirec.codebook import Codebook, fit_item_codebook
from hymirec.datasets import Dataset
from hymirec.errors import UsageError
from hymirec.evaluation.metrics import ndcg_at, summarise
from hymirec.evaluation.protocol import rank_by_scale, rank_cases
from hymirec.examples import CutPointExamples
from hymirec.history import History
from hymirec.inputs import (
    build_histories,
    index_history,
    index_interactions,
    number_items,
)
from hymirec.models.base import (
    Baseline,
    InterestRecommender,
    TrainedRecommender,
    TrainingData,
)
from hymirec.models.hymirec import HyMiRec
from hymirec.models.nextitem import NextItemRecommender
from hymirec.models.popularity import PopularityRecommender
from hymirec.models.pretrained import without_adapters
from hymirec.package import RecommenderPackage
from hymirec.processes import join_processes, on_main
from hymirec.recipes.base import BaselineRecipe, Recipe
from hymirec.schema import ITEM_ID
from hymirec.splits import Case, LeaveLastSplit, Split, count_items
from hymirec.training import SELECTION_METRIC, LogMetrics, TrainingConfig, train
from hymirec.transitions import TransitionConfig, Transitions

log = logging.getLogger(__name__)

MAX_VALIDATION_CASES = 2000
"""Validation after each epoch asks at most about this many users, evenly taken."""


@dataclass(frozen=True)
class Fitted:
    """A trained recommender, the histories, by user id, that it can be asked about, and the first
    stage it was trained from."""

    package: RecommenderPackage
    histories: dict[str, History]
    first_stage: NextItemRecommender

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Rank every user's last event among all items not seen before it.

        Returns:
            `metrics` of the model and, for comparison, those of `popularity`.
        """
        index = number_items(self.package.items[ITEM_ID].tolist())
        split = LeaveLastSplit([index_history(one, index) for one in self.histories.values()])
        popularity = PopularityRecommender(count_items(split.training, len(index)))
        return {
            name: summarise(rank_cases(model, split.test))
            for name, model in (("metrics", self.package.model), ("popularity", popularity))
        }


def fit(dataset: Dataset, recipe: Recipe, *, directory: Path) -> Fitted:
    """Train on a data set, all stages, without Feast, MLflow or Prefect.

    The last two events of a user are held back for validation and test, as everywhere; the
    histories returned hold them. Under `torchrun` all processes call this alike and get the same.

    Args:
        dataset: see `hymirec.datasets.load`.
        recipe: see `hymirec.recipes.get_recipe`.
        directory: for checkpoints; the same call on the same directory resumes from them.

    Raises:
        DataError: see `Dataset.require_whole`; or no user has enough events.
        UsageError: `directory` holds what was begun with other data or settings.
        HymirecError: see `hymirec.training.train`.
    """
    join_processes()
    dataset.require_whole()
    settings = {f"recipe.{name}": value for name, value in recipe.flat().items()}
    settings["data"] = dataset.digest()
    rates = ("recipe.first_training.learning_rate", "recipe.training.learning_rate")
    on_main(lambda: check_settings(directory, settings, changeable=rates))
    item_ids = dataset.items[ITEM_ID].tolist()
    index = number_items(item_ids)
    first_stage, _ = fit_encoder(
        dataset.items,
        LeaveLastSplit(index_interactions(dataset.interactions, index)),
        recipe,
        directory=directory / "encoder",
    )

    def encode() -> tuple[Tensor, Codebook, NDArray[np.uint8]]:
        items = first_stage.item_vectors()
        by_text = first_stage.tower.texts_as_read()
        seed = recipe.first_training.seed
        codebook = fit_item_codebook(items[1:], by_text[1:], recipe.codebook, seed=seed)
        return items, codebook, codebook.encode(items[1:]).numpy()

    items, codebook, codes = on_main(encode)
    histories = build_histories(dataset.interactions, item_ids, codes, codebook.id)
    split = LeaveLastSplit([index_history(history, index) for history in histories.values()])
    model = fit_recommender(
        items, first_stage, codebook, split, recipe, directory=directory / "recommender"
    )
    package = RecommenderPackage.assemble(
        model,
        dataset.items,
        count_items(split.training, len(item_ids)),
        recipe=recipe.name,
        data_digest=dataset.digest(),
    )
    return Fitted(package, histories, first_stage)


def fit_baseline(
    recipe: BaselineRecipe,
    items: pd.DataFrame,
    split: Split,
    *,
    directory: Path,
    log_metrics: LogMetrics = lambda metrics, step: None,
) -> Baseline:
    """Make a baseline and train it if it learns by steps.

    Args:
        recipe: settings.
        items: the canonical items table; row i is item index i + 1.
        split: what it may learn from and validate on.
        directory: for checkpoints.
        log_metrics: called after every epoch.
    """
    torch.manual_seed(recipe.training.seed if recipe.training else 0)
    data = TrainingData(items, split.training, directory / "first_read")
    model = recipe.model.build(data, recipe.settings)
    if (recipe.training is None) == isinstance(model, TrainedRecommender):
        what = "needs a training" if recipe.training is None else "takes no training"
        raise UsageError(f"recipe {recipe.name}: {type(model).__name__} {what}")
    if recipe.training is not None and isinstance(model, TrainedRecommender):
        fit_model(
            model, split, recipe.training,
            directory=directory / "trainer", name=recipe.name, log_metrics=log_metrics,
        )  # fmt: skip
    return model.eval()


def fit_encoder(
    items: pd.DataFrame,
    split: Split,
    recipe: Recipe,
    *,
    directory: Path,
    num_workers: int = 1,
    elsewhere: Elsewhere | None = None,
    log_metrics: LogMetrics = lambda metrics, step: None,
) -> tuple[NextItemRecommender, Tokenizer]:
    """Stage 1: train the content encoder end to end on next items.

    Args:
        items: the canonical items table; row i is item index i + 1.
        split: what it may learn from and validate on; codes are not read.
        recipe: settings.
        directory: for checkpoints.
        num_workers: processes that may read the catalogue, see `hymirec.catalogue`.
        elsewhere: other machines that read it, see there.
        log_metrics: called after every epoch.

    Returns:
        The first-stage recommender, whose tower embeds items and whose adapters, if it had any,
        are merged into its weights; and its tokenizer.
    """
    torch.manual_seed(recipe.first_training.seed)
    tower, tokenizer = make_tower(
        items,
        recipe.encoder,
        count_items(split.training, len(items)),
        directory / "first_read",
        num_workers=num_workers,
        elsewhere=elsewhere,
    )
    model = NextItemRecommender(tower, recipe.first_stage)
    fit_model(
        model,
        split,
        recipe.first_training,
        directory=directory,
        name="encoder",
        log_metrics=log_metrics,
    )
    return cast(NextItemRecommender, without_adapters(model)), tokenizer


def fit_model(
    model: TrainedRecommender,
    split: Split,
    config: TrainingConfig,
    *,
    directory: Path,
    name: str,
    measure: Callable[[], dict[str, float]] = dict,
    log_metrics: LogMetrics = lambda metrics, step: None,
) -> None:
    """Train a model in place on what a split lets it learn from.

    Args:
        model: untrained; left in evaluation mode with the weights that validated best.
        split: what it may learn from.
        config: settings.
        directory: for checkpoints.
        name: in progress lines and as prefix of metric names.
        measure: further measures to validate with.
        log_metrics: called after every epoch.
    """
    examples = model.examples(split.training)
    cases = _some(split.validation)
    train(
        model,
        examples,
        examples.collate,
        lambda: summarise(rank_cases(model, cases)) | measure(),
        config,
        directory=directory,
        name=name,
        log_metrics=log_metrics,
    )
    model.eval()


def fit_recommender(
    items: Tensor,
    first_stage: NextItemRecommender,
    codebook: Codebook,
    split: Split,
    recipe: Recipe,
    *,
    directory: Path,
    log_metrics: LogMetrics = lambda metrics, step: None,
) -> HyMiRec:
    """Stage 3: train the hybrid recommender on frozen items, from the first stage's backbone.

    Transitions are counted and weighed when it is trained, see `fit_transitions`.

    Args:
        items: unit item embeddings [number of items + 1, D], as the codebook was fitted on.
        first_stage: gives the weights to start from.
        codebook: of those embeddings.
        split: what it may learn from and validate on, with codes of `codebook`.
        recipe: settings.
        directory: for checkpoints.
        log_metrics: called after every epoch, and once transitions are weighed.
    """
    settings = recipe.recommender
    torch.manual_seed(recipe.training.seed)
    model = HyMiRec(items, codebook, settings, count_items(split.training, len(items) - 1))
    if settings.backbone == recipe.first_stage.backbone:
        model.start_from(first_stage.backbone)
    else:
        log.info("recommender: its backbone has another shape than the encoder's: starting anew")
    examples = model.examples(split.training)
    fit_model(
        model,
        split,
        recipe.training,
        directory=directory,
        name="recommender",
        measure=lambda: interest_measures(model, examples),
        log_metrics=log_metrics,
    )
    model = cast(HyMiRec, without_adapters(model)).eval()
    model.transitions = on_main(
        lambda: fit_transitions(
            model, split, recipe.transitions,
            temperature=settings.temperature, log_metrics=log_metrics,
        )
    )  # fmt: skip
    return model


def fit_transitions(
    model: InterestRecommender,
    split: Split,
    config: TransitionConfig,
    *,
    temperature: float,
    log_metrics: LogMetrics = lambda metrics, step: None,
) -> Transitions | None:
    """Count what follows what in training, and let validation say how much it weighs.

    Args:
        model: trained, in evaluation mode, without transitions; it stays so.
        split: what may be counted and validated on.
        config: settings.
        temperature: that the model was trained with.
        log_metrics: called once, as of step 0: no epoch ends there.

    Returns:
        What to set as the model's `transitions`, at the weight that validates best; None where
        that is not better than no transitions by more than its standard error, user by user, so
        that luck with a few users adds nothing.
    """
    if not config.max_weight:
        return None
    last = min(config.num_last, model.num_recent)  # what a model is asked with holds no more
    config = config.model_copy(update={"num_last": last})
    num_items = len(model.item_vectors()) - 1
    table = Transitions.count(split.training, num_items, config)
    scales = [weight * temperature for weight in config.weights]
    ranks = rank_by_scale(model, table, scales, _some(split.validation))
    gains = ndcg_at(ranks, 10)  # [weights, users], of which the selection metric is the mean
    best = int(gains.mean(dim=1).argmax())
    more = gains[best] - gains[0]
    if not more.mean() > more.std() / len(more) ** 0.5:
        best = 0
    found = {
        "weight": config.weights[best],
        f"validation_{SELECTION_METRIC}": gains[best].mean().item(),
        f"validation_{SELECTION_METRIC}_without": gains[0].mean().item(),
    }
    log.info("transitions: weight %g, validation N@10 %.4f, %.4f without", *found.values())
    log_metrics({f"transitions/{name}": value for name, value in found.items()}, 0)
    return table.scaled(scales[best]) if best else None


@torch.no_grad()
def interest_measures(
    model: HyMiRec, examples: CutPointExamples, num_examples: int = 64
) -> dict[str, float]:
    """How far the interests of a model have parted.

    Returns:
        `overlap`, the mean cosine between two interests of a user (1: they are one), and
        `top_share`, the share of targets given to the busiest interest (1/S: evenly shared).
    """
    step = max(1, len(examples) // num_examples)
    # The same examples every time, and whoever calls keeps their random numbers.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batch = examples.collate([examples[i] for i in range(0, len(examples), step)])
        training = model.training
        device = model.items.device
        measures = model.eval()(**{name: tensor.to(device) for name, tensor in batch.items()})
        model.train(training)
    return {name: measures[name].item() for name in ("overlap", "top_share")}


def _some(cases: list[Case]) -> list[Case]:
    return cases[:: max(1, -(-len(cases) // MAX_VALIDATION_CASES))]
