"""One model of a benchmark: trained, unless that was done before, validated, evaluated."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from flows.steps.data import DataRef
from flows.steps.encode import build_codebook, read_first_stage, read_items, train_encoder
from flows.steps.results import LIBRARY, StepResult, run_step, source_digest
from flows.steps.train import USERS, read_recommender, read_training_histories, train_recommender
from flows.tracking.record import run_training_step
from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.protocol import rank_cases
from hymirec.evaluation.report import RANK, Catalogue, evaluate
from hymirec.evaluation.table import Row
from hymirec.fitting import fit_baseline, fit_transitions
from hymirec.home import Home
from hymirec.inputs import IndexedHistory, index_interactions, number_items
from hymirec.models.base import Recommender
from hymirec.models.hymirec import TRANSITIONS
from hymirec.models.pretrained import digest
from hymirec.models.sequence import TowerRecommender
from hymirec.recipes import BaselineRecipe, Recipe
from hymirec.schema import ITEM_ID, USER_ID
from hymirec.splits import SplitConfig, count_items
from hymirec.transitions import TransitionConfig, Transitions

METRICS = "metrics.json"


@dataclass(frozen=True)
class Contender:
    """A contender that is ready to be asked.

    Attributes:
        model: it.
        parameters: how many were trained on the way to it.
        steps: what was done for it; the last made the model itself.
        users: their ids.
        histories: of those users.
    """

    model: Recommender
    parameters: int
    steps: Sequence[StepResult]
    users: Sequence[str]
    histories: Sequence[IndexedHistory]


def train_contender(
    home: Home, data: DataRef, split: SplitConfig, recipe: Recipe | BaselineRecipe, run_id: str
) -> Contender:
    """Train a model, all stages, below an MLflow run; what was done before is taken as it is."""
    if isinstance(recipe, Recipe):
        return _train_hymirec(home, data, split, recipe, run_id)
    return _train_baseline(home, data, split, recipe, run_id)


def with_transitions(
    home: Home, split: SplitConfig, config: TransitionConfig, trained: Contender
) -> Contender:
    """The same model with what follows what, as HyMiRec has it; the training is not done again."""
    model = trained.model
    assert isinstance(model, TowerRecommender)

    def work(output: Path, checkpoints: Path) -> None:
        parts = split.of(trained.histories)
        temperature = model.shared.temperature
        found = fit_transitions(model.eval(), parts, config, temperature=temperature)
        if found is not None:
            found.save(output / TRANSITIONS)

    inputs = _inputs_below(trained) | config.model_dump(mode="json")
    done = run_step(home, "benchmark-transitions", inputs, work)
    if (done.directory / TRANSITIONS).exists():
        model.transitions = Transitions.load(done.directory / TRANSITIONS)
    return replace(trained, steps=(*trained.steps, done))


def _train_hymirec(
    home: Home, data: DataRef, split: SplitConfig, recipe: Recipe, run_id: str
) -> Contender:
    encoder = train_encoder(home, data, recipe, run_id, split=split)
    codebook = build_codebook(home, encoder, recipe, run_id)

    done = train_recommender(home, data, encoder, codebook, recipe, run_id, split=split)
    users, histories = read_training_histories(home, data, codebook)
    model = read_recommender(done)
    parameters = _count(read_first_stage(encoder)) + _count(model)
    return Contender(model, parameters, (encoder, codebook, done), users, histories)


def _train_baseline(
    home: Home, data: DataRef, split: SplitConfig, recipe: BaselineRecipe, run_id: str
) -> Contender:
    dataset = data.read()
    index = number_items(dataset.items[ITEM_ID].tolist())
    histories = index_interactions(dataset.interactions, index)
    users = dataset.interactions[USER_ID].drop_duplicates().tolist()

    def work(output: Path, checkpoints: Path, log: Any) -> None:
        model = fit_baseline(
            recipe, dataset.items, split.of(histories), directory=checkpoints, log_metrics=log
        )
        model.save(output / "model")

    inputs = inputs_of(data, recipe) | {"split": split.model_dump(), "step": _code()}
    done = run_training_step(home, recipe.name, inputs, run_id, work)
    model = recipe.model.load(done.directory / "model")
    return Contender(model, _count(model), (done,), users, histories)


def _count(model: Recommender) -> int:
    return sum(part.numel() for part in model.parameters())


def _inputs_below(trained: Contender) -> dict[str, object]:
    """What all depends on that is done with a trained model."""
    return {"model": trained.steps[-1].digest, "code": _code()}


def _code() -> str:
    return source_digest(Path(__file__))


def inputs_of(data: DataRef, recipe: BaselineRecipe) -> dict[str, object]:
    """All that a baseline depends on beside the library: settings, its own code, text models."""
    settings = recipe.model_dump(mode="json")
    inputs = {"data": data.digest, **settings}
    source = Path(inspect.getfile(recipe.model)).resolve()
    if not source.is_relative_to(LIBRARY.resolve()):
        inputs |= {"model": f"{recipe.model.__module__}.{recipe.model.__qualname__}",
                   "code": source_digest(source)}  # fmt: skip
    return inputs | {f"pretrained {name}": digest(name) for name in text_models(settings)}


def text_models(settings: Any) -> set[str]:
    """Directories and hub names among settings, wherever they stand."""
    if not isinstance(settings, dict):
        return set()
    found = {settings.get("writer", ""), settings.get("pretrained", {}).get("source", "")} - {""}
    return found.union(*map(text_models, settings.values()))


def validate_contender(home: Home, split: SplitConfig, trained: Contender) -> dict[str, float]:
    """Metrics on what a model is chosen by; the test has no say."""

    def work(output: Path, checkpoints: Path) -> None:
        cases = split.of(trained.histories).validation
        found = summarise(rank_cases(trained.model, cases))
        (output / METRICS).write_text(json.dumps(found, indent=2))

    done = run_step(home, "benchmark-validation", _inputs_below(trained), work)
    return json.loads((done.directory / METRICS).read_text())


def evaluate_contender(
    home: Home, data: DataRef, split: SplitConfig, title: str, seed: int, trained: Contender
) -> Row:
    """Rank every user's test items; the row of a table."""

    def work(output: Path, checkpoints: Path) -> None:
        parts = split.of(trained.histories)
        items = read_items(data)
        occurrences = count_items(parts.training, len(items))
        report = evaluate(
            trained.model, parts.test, trained.users, Catalogue.of(items, occurrences)
        )
        (output / METRICS).write_text(json.dumps(report.metrics, indent=2))
        report.users.to_parquet(output / USERS, index=False)

    done = run_step(home, "benchmark-evaluation", _inputs_below(trained), work)
    metrics: Mapping[str, float] = json.loads((done.directory / METRICS).read_text())
    cost = {
        "seconds": sum(one.cost["seconds"] for one in trained.steps),
        "peak_mb": max(one.cost.get("peak_mb", 0.0) for one in trained.steps),
        "parameters": float(trained.parameters),
        "evaluation_seconds": done.cost["seconds"],
    }
    ranks = pd.read_parquet(done.directory / USERS, columns=[RANK])[RANK].to_numpy()
    return Row(title, seed, dict(metrics), cost, ranks, done.directory / USERS)
