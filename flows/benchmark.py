"""HyMiRec, its ablations and the baselines on one data set: trained, evaluated, compared.

Every model and seed is a step of its own, so that an interrupted benchmark goes on where it stopped
and one that is asked for more models trains only those. Each has an MLflow run below the
benchmark's. Where rates are tuned, every model that learns by steps is tried at the same factors of
its recipe's learning rate, from the first seed, and keeps the one that validates best: the same
budget for all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from prefect import flow

from flows.runtime.locks import DATA, FOREVER, alone_in
from flows.steps.contender import (
    evaluate_contender,
    train_contender,
    validate_contender,
    with_transitions,
)
from flows.steps.data import DataRef, ingest, read_ref
from flows.tracking.record import (
    log_metrics,
    log_parameters,
    tags_below,
)
from flows.tracking.runs import flow_run, step
from flows.validation.admission import admit
from hymirec.errors import DivergedError, UsageError
from hymirec.evaluation.table import Row, table_of
from hymirec.home import Home
from hymirec.models.sequence import TowerRecommender
from hymirec.progress import SELECTION_METRIC
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
from hymirec.splits import LEAVE_LAST, SplitConfig
from hymirec.transitions import TransitionConfig

log = logging.getLogger(__name__)

OURS = "hymirec"
OUR_TITLE = "HyMiRec"
MODEL_TAG, SEED_TAG, BENCHMARK_TAG = "model", "seed", "benchmark"
TRIAL_TAG = "trial"
"""Of a run that chose a rate; its value is the model. Such a run has no model tag: no row."""
TRIED = f"validation {SELECTION_METRIC}"


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark came to.

    Attributes:
        run_id: the MLflow run.
        rows: one a model and seed, with all metrics.
        table: one a model, over seeds, compared with the first.
        trials: one a model and factor of the learning rate that was tried: `model`, `factor`,
            `validation N@10`, `chosen`.
    """

    run_id: str
    rows: list[Row]
    table: list[dict[str, Any]]
    trials: list[dict[str, Any]]

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
        title = OUR_TITLE if isinstance(recipe, Recipe) else recipe.title
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
        found[f"{OUR_TITLE}, {name.replace('_', ' ')}"] = variant(size, name, change)
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
    rate_factors: Sequence[float] = (),
    transitions: bool = False,
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
        rate_factors: of the recipe's learning rates, of which each model takes its best; none:
            the recipe's own.
        transitions: show each baseline that is made for them with what follows what, too.
    """
    size = get_recipe(recipe)
    chosen = contenders(size, models, ablations=ablations, sweeps=sweeps)
    place = Home.at(home).create()
    with flow_run(place, "benchmark", run_name=f"benchmark {size.name}") as run:
        run_id = run.run_id
        mlflow.set_tag(BENCHMARK_TAG, "true")
        with alone_in(place, DATA, wait_seconds=FOREVER):
            ref = ingest(place, data, min_events=min_events)
            # What is served is published of the latest data, and is not to become a benchmark's.
            ref = read_ref(place, admit(place, ref, run_id, as_latest=False))
        log_parameters(
            run_id,
            {"data.name": ref.name, "data.digest": ref.digest, "recipe": recipe, "seeds": seeds,
             "models": ", ".join(chosen), "split": split.by, "window": split.window,
             "rate_factors": ", ".join(f"{factor:g}" for factor in rate_factors),
             "transitions": transitions},
        )  # fmt: skip
        trials = tuned(place, ref, split, chosen, rate_factors, run_id)
        factors = {trial["model"]: trial["factor"] for trial in trials if trial["chosen"]}
        rows = []
        for seed in range(seeds):
            for title, as_it_comes in chosen.items():
                log.info("benchmark: %s, seed %d", title, seed)
                # HyMiRec's variants change the fields they name and nothing else.
                like = OUR_TITLE if isinstance(as_it_comes, Recipe) else title
                its_recipe = as_it_comes.times_rate(factors.get(like, 1.0))
                shown: dict[str, TransitionConfig | None] = {title: None}
                if transitions and _takes_transitions(its_recipe):
                    shown[f"{title}, transitions"] = size.transitions
                for name, added in shown.items():
                    task = step(f"{name}, seed {seed}")(run_contender)
                    rows.append(task(place, ref, split, name, its_recipe, seed, run_id, added))
        table = table_of(rows)
        mlflow.log_table(pd.DataFrame([row.flat() for row in rows]), "rows.json")
        mlflow.log_table(pd.DataFrame(table), "table.json")
        if trials:
            mlflow.log_table(pd.DataFrame(trials), "trials.json")
    return BenchmarkResult(run_id, rows, table, trials)


def _takes_transitions(recipe: Recipe | BaselineRecipe) -> bool:
    """Whether it is a baseline whose scores are cosines, trained at a temperature."""
    return isinstance(recipe, BaselineRecipe) and issubclass(recipe.model, TowerRecommender)


def tuned(
    home: Home,
    data: DataRef,
    split: SplitConfig,
    chosen: Mapping[str, Recipe | BaselineRecipe],
    factors: Sequence[float],
    parent: str,
) -> list[dict[str, Any]]:
    """Try all factors of the learning rate, seed 0, for every model that learns by steps.

    Returns:
        See `BenchmarkResult.trials`; of factors that validate alike the first is chosen. One at
        which the training diverged validates as None.

    Raises:
        DivergedError: a model's training did at every factor.
    """
    trials = []
    for title, recipe in chosen.items():
        if title != OUR_TITLE and (isinstance(recipe, Recipe) or recipe.training is None):
            continue
        own = []
        for factor in factors:
            log.info("benchmark: %s, trying %g times its rate", title, factor)
            task = step(f"{title}, rate times {factor:g}")(run_trial)
            try:
                found = task(home, data, split, title, recipe.times_rate(factor), factor, parent)
            except DivergedError as error:  # the others may do better
                log.warning("benchmark: %s", error)
                found = None
            own.append({"model": title, "factor": factor, TRIED: found})
        ended = [trial for trial in own if trial[TRIED] is not None]
        best = max(ended, key=lambda trial: trial[TRIED], default=None)
        if own and best is None:
            raise DivergedError(f"{title} diverged at every rate tried: lower ones may do")
        trials += [trial | {"chosen": trial is best} for trial in own]
    return trials


def run_contender(
    home: Home,
    data: DataRef,
    split: SplitConfig,
    title: str,
    recipe: Recipe | BaselineRecipe,
    seed: int,
    parent: str,
    transitions: TransitionConfig | None = None,
) -> Row:
    """Train one model from one seed, unless that was done before, and log it as a run.

    Args:
        home: where results are kept.
        data: what is trained and asked on.
        split: which part of it is for what.
        title: of the row.
        recipe: of any seed.
        seed: the one.
        parent: the benchmark's run.
        transitions: what a baseline is given besides; HyMiRec's recipe has its own.
    """
    recipe = recipe.with_seed(seed)
    tags = {MODEL_TAG: title, SEED_TAG: str(seed)}
    with _contender_run(f"{title}, seed {seed}", data, split, recipe, parent, tags) as run_id:
        trained = train_contender(home, data, split, recipe, run_id)
        if transitions is not None:
            log_parameters(run_id, {f"transitions.{name}": value for name, value in transitions})
            trained = with_transitions(home, split, transitions, trained)
        row = evaluate_contender(home, data, split, title, seed, trained)
        log_metrics(run_id, {f"test/{name}": value for name, value in row.metrics.items()})
        log_metrics(run_id, {f"cost/{name}": value for name, value in row.cost.items()})
        mlflow.MlflowClient().log_artifact(run_id, str(row.users), "evaluation")
    return row


def run_trial(
    home: Home,
    data: DataRef,
    split: SplitConfig,
    title: str,
    recipe: Recipe | BaselineRecipe,
    factor: float,
    parent: str,
) -> float:
    """Train one model at one rate, unless that was done before; its validation N@10."""
    recipe = recipe.with_seed(0)
    name = f"{title}, rate times {factor:g}"
    with _contender_run(name, data, split, recipe, parent, {TRIAL_TAG: title}) as run_id:
        found = validate_contender(home, split, train_contender(home, data, split, recipe, run_id))
        log_metrics(run_id, {f"validation/{name}": value for name, value in found.items()})
    return found[SELECTION_METRIC]


@contextmanager
def _contender_run(
    name: str,
    data: DataRef,
    split: SplitConfig,
    recipe: Recipe | BaselineRecipe,
    parent: str,
    tags: Mapping[str, str],
) -> Iterator[str]:
    """A run below the benchmark's for one training, all settings logged; FAILED if it raises."""
    client = mlflow.MlflowClient()
    above = client.get_run(parent)
    tags = {**tags_below(above), "data.digest": data.digest, **tags}
    run_id = client.create_run(above.info.experiment_id, run_name=name, tags=tags).info.run_id
    status = "FAILED"
    try:
        settings = {f"split.{name}": value for name, value in split.model_dump().items()}
        log_parameters(run_id, recipe.flat() | settings | {"data.digest": data.digest})
        yield run_id
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
