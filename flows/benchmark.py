"""HyMiRec, its ablations and the baselines on one data set: trained, evaluated, compared.

Every model and seed is a step of its own, so that an interrupted benchmark goes on where it stopped
and one that is asked for more models trains only those. Each has an MLflow run below the
benchmark's.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID
from prefect import flow

from flows.steps.data import DataRef, ingest, read_ref
from flows.steps.encode import (
    build_codebook,
    read_first_stage,
    read_items,
    train_encoder,
)
from flows.steps.results import LIBRARY, StepResult, run_step, source_digest
from flows.steps.train import USERS, read_recommender, read_training_histories, train_recommender
from flows.tracking.record import (
    log_metrics,
    log_parameters,
    run_training_step,
    source_commit,
)
from flows.tracking.runs import flow_run, step
from flows.validation.admission import admit
from hymirec.errors import UsageError
from hymirec.evaluation.report import RANK, Catalogue, evaluate
from hymirec.evaluation.table import Row, table_of
from hymirec.fitting import fit_baseline
from hymirec.home import Home
from hymirec.inputs import (
    IndexedHistory,
    index_interactions,
    number_items,
)
from hymirec.models.base import Recommender
from hymirec.models.pretrained import digest
from hymirec.recipes import (
    ABLATIONS,
    BASELINES,
    SWEEPS,
    BaselineRecipe,
    Recipe,
    get_baseline,
    get_recipe,
)
from hymirec.recipes.ablations import variant
from hymirec.schema import ITEM_ID, USER_ID
from hymirec.splits import LEAVE_LAST, SplitConfig, count_items

log = logging.getLogger(__name__)

OURS = "hymirec"
MODEL_TAG, SEED_TAG, BENCHMARK_TAG = "model", "seed", "benchmark"
METRICS = "metrics.json"


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark came to.

    Attributes:
        run_id: the MLflow run.
        rows: one a model and seed, with all metrics.
        table: one a model, over seeds, compared with the first.
    """

    run_id: str
    rows: list[Row]
    table: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self) | {"rows": [row.to_json() for row in self.rows]}


def contenders(
    size: Recipe, models: Sequence[str], *, ablations: bool, sweeps: Sequence[str]
) -> dict[str, Recipe | BaselineRecipe]:
    """Recipes by the names under which tables show them, HyMiRec first where it takes part.

    Args:
        size: HyMiRec's own recipe, whose sizes the others take.
        models: names; `all` for HyMiRec and every baseline.
        ablations: take HyMiRec's ablations too.
        sweeps: names of `hymirec.recipes.SWEEPS` to take too.

    Raises:
        UsageError: a name is unknown.
    """
    given = [one for name in models for one in ((OURS, *BASELINES) if name == "all" else (name,))]
    names = sorted(dict.fromkeys(given), key=lambda name: name != OURS)
    if not names:
        raise UsageError("no model is named: --models takes names with commas between, or all")
    found: dict[str, Recipe | BaselineRecipe] = {}
    for name in names:
        recipe = size if name == OURS else get_baseline(name, size)
        title = "HyMiRec" if isinstance(recipe, Recipe) else recipe.title
        if title in found:
            raise UsageError(f"two models are called {title!r}: {name} and another")
        found[title] = recipe
    unknown = [name for name in sweeps if name not in SWEEPS]
    if unknown:
        raise UsageError(f"no sweep is called {unknown[0]!r}; there are {', '.join(SWEEPS)}")
    changes = dict(ABLATIONS) if ablations else {}
    for name in sweeps:
        changes |= SWEEPS[name]
    for name, change in changes.items():
        found[f"HyMiRec, {name.replace('_', ' ')}"] = variant(size, name, change)
    return found


@flow(name="benchmark", validate_parameters=False)
def benchmark(
    data: Path,
    home: Path,
    recipe: str,
    models: Sequence[str] = ("all",),
    seeds: int = 1,
    ablations: bool = False,
    sweeps: Sequence[str] = (),
    min_events: int = 1,
    split: SplitConfig = LEAVE_LAST,
) -> BenchmarkResult:
    """Train, evaluate and compare.

    Args:
        data: a folder that `hymirec.datasets.load` reads.
        home: where all state goes.
        recipe: HyMiRec's, by name; the baselines take its sizes.
        models: see `contenders`.
        seeds: from 0.
        ablations: see `contenders`.
        sweeps: see `contenders`.
        min_events: users with fewer are left out.
        split: what is trained on and asked about.
    """
    size = get_recipe(recipe)
    chosen = contenders(size, models, ablations=ablations, sweeps=sweeps)
    place = Home.at(home).create()
    with flow_run(place, "benchmark", run_name=f"benchmark {size.name}") as run:
        run_id = run.run_id
        mlflow.set_tag(BENCHMARK_TAG, "true")
        ref = ingest(place, data, min_events=min_events)
        # What is served is published of the latest data, and is not to become a benchmark's.
        ref = read_ref(place, admit(place, ref, run_id, as_latest=False))
        log_parameters(
            run_id,
            {"data.name": ref.name, "data.digest": ref.digest, "recipe": recipe, "seeds": seeds,
             "models": ", ".join(chosen), "split": split.by, "window": split.window},
        )  # fmt: skip
        rows = []
        for seed in range(seeds):
            for title, its_recipe in chosen.items():
                log.info("benchmark: %s, seed %d", title, seed)
                task = step(f"{title}, seed {seed}")(run_contender)
                rows.append(task(place, ref, split, title, its_recipe, seed, run_id))
        table = table_of(rows)
        mlflow.log_table(pd.DataFrame([row.flat() for row in rows]), "rows.json")
        mlflow.log_table(pd.DataFrame(table), "table.json")
    return BenchmarkResult(run_id, rows, table)


def run_contender(
    home: Home,
    data: DataRef,
    split: SplitConfig,
    title: str,
    recipe: Recipe | BaselineRecipe,
    seed: int,
    parent: str,
) -> Row:
    """Train one model from one seed, unless that was done before, and log it as a run."""
    recipe = recipe.with_seed(seed)
    client = mlflow.MlflowClient()
    run = client.create_run(
        client.get_run(parent).info.experiment_id,
        run_name=f"{title}, seed {seed}",
        tags={
            MLFLOW_PARENT_RUN_ID: parent, MLFLOW_GIT_COMMIT: source_commit(), MODEL_TAG: title,
            SEED_TAG: str(seed),
            "data.digest": data.digest,
        },
    )  # fmt: skip
    run_id = run.info.run_id
    status = "FAILED"
    try:
        settings = {f"split.{name}": value for name, value in split.model_dump().items()}
        log_parameters(run_id, recipe.flat() | settings | {"data.digest": data.digest})
        if isinstance(recipe, Recipe):
            trained = _train_hymirec(home, data, split, recipe, run_id)
        else:
            trained = _train_baseline(home, data, split, recipe, run_id)
        row = _evaluated(home, data, split, title, seed, trained)
        log_metrics(run_id, {f"test/{name}": value for name, value in row.metrics.items()})
        log_metrics(run_id, {f"cost/{name}": value for name, value in row.cost.items()})
        client.log_artifact(run_id, str(row.users), "evaluation")
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    return row


@dataclass(frozen=True)
class _Trained:
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


def _train_hymirec(
    home: Home, data: DataRef, split: SplitConfig, recipe: Recipe, run_id: str
) -> _Trained:
    encoder = train_encoder(home, data, recipe, run_id, split=split)
    codebook = build_codebook(home, encoder, recipe, run_id)
    done = train_recommender(home, data, encoder, codebook, recipe, run_id, split=split)
    users, histories = read_training_histories(home, data, codebook)
    model = read_recommender(done)
    parameters = _count(read_first_stage(encoder)) + _count(model)
    return _Trained(model, parameters, (encoder, codebook, done), users, histories)


def _train_baseline(
    home: Home, data: DataRef, split: SplitConfig, recipe: BaselineRecipe, run_id: str
) -> _Trained:
    dataset = data.read()
    index = number_items(dataset.items[ITEM_ID].tolist())
    histories = index_interactions(dataset.interactions, index)
    users = dataset.interactions[USER_ID].drop_duplicates().tolist()

    def work(output: Path, checkpoints: Path, log: Any) -> None:
        model = fit_baseline(
            recipe, dataset.items, split.of(histories), directory=checkpoints, log_metrics=log
        )
        model.save(output / "model")

    inputs = _inputs(data, recipe) | {"split": split.model_dump()}
    done = run_training_step(home, recipe.name, inputs, run_id, work)
    model = recipe.model.load(done.directory / "model")
    return _Trained(model, _count(model), (done,), users, histories)


def _count(model: Recommender) -> int:
    return sum(part.numel() for part in model.parameters())


def _inputs(data: DataRef, recipe: BaselineRecipe) -> dict[str, object]:
    """All that a baseline depends on beside the library: settings, its own code, text models."""
    settings = recipe.model_dump(mode="json")
    inputs = {"data": data.digest, **settings}
    source = Path(inspect.getfile(recipe.model)).resolve()
    if not source.is_relative_to(LIBRARY.resolve()):
        inputs |= {"model": f"{recipe.model.__module__}.{recipe.model.__qualname__}",
                   "code": source_digest(source)}  # fmt: skip
    return inputs | {f"pretrained {name}": digest(name) for name in _text_models(settings)}


def _text_models(settings: Any) -> set[str]:
    """Directories and hub names among settings, wherever they stand."""
    if not isinstance(settings, dict):
        return set()
    found = {settings.get("writer", ""), settings.get("pretrained", {}).get("source", "")} - {""}
    return found.union(*map(_text_models, settings.values()))


def _evaluated(
    home: Home, data: DataRef, split: SplitConfig, title: str, seed: int, trained: _Trained
) -> Row:
    def work(output: Path, checkpoints: Path) -> None:
        parts = split.of(trained.histories)
        items = read_items(data)
        occurrences = count_items(parts.training, len(items))
        report = evaluate(
            trained.model, parts.test, trained.users, Catalogue.of(items, occurrences)
        )
        (output / METRICS).write_text(json.dumps(report.metrics, indent=2))
        report.users.to_parquet(output / USERS, index=False)

    done = run_step(home, "benchmark-evaluation", {"model": trained.steps[-1].digest}, work)
    metrics: Mapping[str, float] = json.loads((done.directory / METRICS).read_text())
    cost = {
        "seconds": sum(one.cost["seconds"] for one in trained.steps),
        "peak_mb": max(one.cost.get("peak_mb", 0.0) for one in trained.steps),
        "parameters": float(trained.parameters),
        "evaluation_seconds": done.cost["seconds"],
    }
    ranks = pd.read_parquet(done.directory / USERS, columns=[RANK])[RANK].to_numpy()
    return Row(title, seed, dict(metrics), cost, ranks, done.directory / USERS)
