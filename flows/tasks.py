"""The steps as Prefect tasks, each with the MLflow run of its component.

A task calls a plain function and hands on paths and digests. The pipeline joins them
(`flows.pipeline`); each is a flow of its own as well (`flows.alone`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import RunTag

from flows.registry.card import CARD, model_card
from flows.runtime.locks import DATA, FOREVER, alone_in
from flows.runtime.settings import CHALLENGER, CHAMPION, CODEBOOK_TAG, MODEL_NAME
from flows.steps import encode, train
from flows.steps.data import DataRef, ingest_step, read_ref
from flows.steps.published import find_published
from flows.steps.register import find_version, package_digest, register_model
from flows.steps.results import StepResult, run_step
from flows.tracking.record import (
    component_run,
    log_component,
    log_metrics,
    log_parameters,
    log_step,
)
from flows.tracking.runs import show_link, show_table, step
from flows.validation.admission import BadRows, admit, read_verdict, report_of
from hymirec.evaluation.table import HEADLINE
from hymirec.home import Home
from hymirec.models.pretrained import PretrainedConfig
from hymirec.recipes import Recipe, get_recipe

log = logging.getLogger(__name__)

PROMOTE = "promote"
REPORT = "data_report"
Tuning = Literal["full", "lora", "frozen"]
Standing = Literal["champion", "challenger", "refused", "passed"]
"""What has become of a version by now: the alias it has; of one without, whether it passed."""


def chosen_recipe(
    name: str, backbone: str = "", tuning: Tuning = "frozen", seed: int | None = None
) -> Recipe:
    """A recipe by name, with the pretrained text model and the seed where they are named.

    Raises:
        UsageError: no recipe is called so.
    """
    recipe = get_recipe(name)
    if backbone:
        recipe = recipe.with_text_model(PretrainedConfig(source=backbone, tuning=tuning))
    return recipe if seed is None else recipe.with_seed(seed)


@step("data")
def data_task(home: Home, source: Path, run_id: str) -> StepResult:
    """Read the data and note in MLflow what was read."""
    with alone_in(home, DATA, wait_seconds=FOREVER):
        done = ingest_step(home, source)
    log_data(read_ref(home, done), run_id)
    return done


def log_data(data: DataRef, run_id: str) -> None:
    """Note in a run what data it is about."""
    log_parameters(run_id, {"data.name": data.name, "data.digest": data.digest})
    interactions = data.read().interactions
    mlflow.log_input(
        from_pandas(interactions, name=data.name, digest=data.digest), context="training"
    )


@step("validate")
def validate_task(home: Home, data: DataRef, run_id: str, bad_rows: BadRows = "fail") -> StepResult:
    """Validate, keep the report, and stop the flow on a failure."""
    with component_run(run_id, "validate") as own, alone_in(home, DATA, wait_seconds=FOREVER):
        with _kept_report(report_of(home, data), own):
            done = admit(home, data, own, bad_rows)
        log_step(own, done)
        verdict = read_verdict(done)
        log_metrics(own, {f"dropped/{table}": num for table, num in verdict.dropped.items()})
        log_metrics(own, {"warnings": len(verdict.warnings)})
        mlflow.MlflowClient().log_text(own, "\n".join(verdict.warnings), "warnings.txt")
        _set_tags(own, {"data_report_run": verdict.run_id})
    show_table(
        "validation",
        {"data": f"{data.name} {data.digest}", "admitted as": read_ref(home, done).digest}
        | {f"rows of {table} dropped": count for table, count in verdict.dropped.items()}
        | {f"warning {place}": text for place, text in enumerate(verdict.warnings, start=1)},
    )
    return done


@step("encoder")
def encoder_task(home: Home, data: DataRef, recipe: Recipe, run_id: str) -> tuple[StepResult, str]:
    """Train the content encoder; the id of its logged model with it."""
    with component_run(run_id, "train-encoder") as own:
        done = encode.train_encoder(home, data, recipe, run_id)
        log_step(own, done)
        if own != run_id:
            log_parameters(own, encoder_settings(recipe))
    return done, log_component(run_id, done, encoder_settings(recipe))


@step("codebook")
def codebook_task(
    home: Home, encoder: StepResult, recipe: Recipe, run_id: str
) -> tuple[StepResult, str]:
    """Fit the codebook; the id of its logged model with it."""
    with component_run(run_id, "build-codebook") as own:
        done = encode.build_codebook(home, encoder, recipe, run_id)
        if own != run_id:
            log_parameters(own, codebook_settings(recipe))
            health = encode.read_health(done)
            log_metrics(own, {f"codebook/{name}": value for name, value in health.items()})
        log_step(own, done)
    return done, log_component(run_id, done, codebook_settings(recipe))


@step("publish")
def publish_task(
    home: Home, data: DataRef, codebook: StepResult, run_id: str, *, again: bool = False
) -> StepResult:
    """Publish codes and histories, unless they are."""
    with component_run(run_id, "publish-features") as own:
        done = None if again else find_published(home, data, encode.read_codebook(codebook).id)
        if done:
            log.info("publish: nothing changed, taking what is there")
        else:
            # Imported here since Feast takes seconds, for which a run that changes nothing need
            # not wait.
            from flows.steps.publish import publish_features

            done = publish_features(home, data, codebook)
        log_step(own, done)
    return done


@step("publish")
def publish_served_task(
    home: Home, data: DataRef, run_id: str, *, again: bool = False
) -> list[StepResult]:
    """Publish data under the codebook of every version that is served, unless it is."""
    from flows.steps.publish import publish_served

    with component_run(run_id, "publish-features") as own:
        done = publish_served(home, data, again=again)
        for one in done:
            log_step(own, one)
    return done


@step("recommender")
def train_task(
    home: Home, data: DataRef, encoder: StepResult, codebook: StepResult, recipe: Recipe,
    run_id: str,
) -> StepResult:  # fmt: skip
    """Train the recommender."""
    with component_run(run_id, "train-recommender") as own:
        with _kept_report(train.training_report(home, codebook, recipe), own):
            done = train.train_recommender(home, data, encoder, codebook, recipe, run_id)
        if own != run_id:
            log_parameters(own, _of(recipe, "recommender.", "training."))
        log_step(own, done)
    return done


@step("evaluation")
def evaluate_task(
    home: Home, data: DataRef, codebook: StepResult, recommender: StepResult, recipe: Recipe,
    run_id: str,
) -> StepResult:  # fmt: skip
    """Measure the model, and write its card."""
    with component_run(run_id, "evaluate") as own:
        with _kept_report(train.prediction_report(home, recommender), own):
            done = train.evaluate_recommender(home, data, codebook, recommender, run_id)
        mlflow.MlflowClient().log_artifacts(run_id, str(done.directory), "evaluation")
        mlflow.MlflowClient().log_text(run_id, card_of(data, codebook, done, recipe), CARD)
        if own != run_id:
            train.log_evaluation(own, done)
        log_step(own, done)
    results = train.read_metrics(done)
    headline = {
        f"{name}{suffix}": results[part][name]
        for part, suffix in (("metrics", ""), ("popularity", ", popularity"))
        for name in HEADLINE
    }
    show_table("evaluation", headline)
    return done


def card_of(data: DataRef, codebook: StepResult, evaluation: StepResult, recipe: Recipe) -> str:
    """The card of the model that an evaluation is of."""
    results = train.read_metrics(evaluation)
    return model_card(
        data, recipe, encode.read_codebook(codebook).id, results["metrics"],
        results["popularity"], encode.read_health(codebook),
    )  # fmt: skip


@step("register")
def register_task(
    home: Home, data: DataRef, codebook: StepResult, recommender: StepResult,
    evaluation: StepResult, recipe: Recipe, parts: Mapping[str, str], run_id: str,
) -> Registered:  # fmt: skip
    """Register the model, unless it is; the version belongs to the flow's run."""
    with component_run(run_id, "register") as own:
        card = card_of(data, codebook, evaluation, recipe)
        known = find_version(package_digest(evaluation.digest))
        if known:
            log.info("register: this is version %s already", known.version)
        version = known or register_model(
            home, data, codebook, recommender, evaluation, recipe, card, parts
        )
        tags = {"model_version": f"{MODEL_NAME}/{version.version}"}
        for run in {run_id, own}:
            _set_tags(run, tags)
        _set_tags(own, {"skipped": str(bool(known)).lower()})
    show_table("model-version", tags | {"codebook": version.tags[CODEBOOK_TAG]})
    return Registered(int(version.version), skipped=bool(known))


@dataclass(frozen=True)
class Registered:
    """A registered version, and whether it was there already."""

    version: int
    skipped: bool
    name: str = "register"


@step("promote")
def promote_task(home: Home, version: int, evaluation: StepResult, run_id: str) -> StepResult:
    """Let the gate judge a version and give it the alias it deserves, once.

    What was done is not done again: somebody may have gone back from the version since.
    """
    found = mlflow.MlflowClient().get_model_version(MODEL_NAME, str(version))
    results = train.read_metrics(evaluation)

    def work(output: Path, checkpoints: Path) -> None:
        # Imported here as it imports Feast, see `publish_task`.
        from flows.registry.promote import place_new

        standing = place_new(home, found, results["metrics"], results["popularity"])
        (output / "standing.json").write_text(json.dumps(standing))

    with component_run(run_id, "promote") as own:
        inputs = {"version": version, "registered": found.creation_timestamp}
        done = run_step(home, PROMOTE, inputs, work)
        log_step(own, done)
        _set_tags(own, {"standing": standing_of(version, done)})
    return done


def standing_of(version: int, judged: StepResult) -> Standing:
    """What has become of a version that `promote_task` judged.

    One that passed has no alias where a later one is challenger, or somebody went back from it.
    """
    aliases = mlflow.MlflowClient().get_registered_model(MODEL_NAME).aliases
    if str(aliases.get(CHAMPION)) == str(version):
        return "champion"
    if str(aliases.get(CHALLENGER)) == str(version):
        return "challenger"
    found = str(json.loads((judged.directory / "standing.json").read_text()))
    return "refused" if found == "refused" else "passed"


def encoder_settings(recipe: Recipe) -> dict[str, Any]:
    """Of a recipe, what the encoder depends on."""
    return _of(recipe, "encoder.", "first_stage.", "first_training.")


def codebook_settings(recipe: Recipe) -> dict[str, Any]:
    """Of a recipe, what the codebook depends on besides."""
    return _of(recipe, "codebook.")


def _of(recipe: Recipe, *parts: str) -> dict[str, Any]:
    return {name: value for name, value in recipe.flat().items() if name.startswith(parts)}


def _set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])


@contextmanager
def _kept_report(site: Path, run_id: str) -> Iterator[None]:
    """Keep a report that is written meanwhile in MLflow, good or bad, and show Prefect where."""
    before = _written(site)
    try:
        yield
    finally:
        if _written(site) != before:
            mlflow.MlflowClient().log_artifacts(run_id, str(site), REPORT)
            page = next(site.glob("validations/*/**/*.html"), site / "index.html")
            show_link("data-report", page.as_uri(), "what the suites found")


def _written(site: Path) -> float:
    """When a report was written; 0 if it was not."""
    index = site / "index.html"
    return index.stat().st_mtime_ns if index.exists() else 0
