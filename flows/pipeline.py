"""From a folder of interactions to the model that answers, as one flow.

Tasks hand on paths and digests. Each calls a plain function of this package, which can be tested
without Prefect.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow.data.pandas_dataset import from_pandas
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows import encode, train
from flows.card import CARD, model_card
from flows.data import DataRef, ingest
from flows.promote import Standing, place_new
from flows.publish import publish_features
from flows.register import register_model
from flows.settings import CODEBOOK_MODEL_TAG, ENCODER_MODEL_TAG, MODEL_NAME
from flows.steps import StepResult, alone_in
from flows.tracking import log_component, log_parameters, tracked_run
from flows.validate import validate
from hymirec.home import Home
from hymirec.models.pretrained import PretrainedConfig
from hymirec.recipes import Recipe, get_recipe

FLOW_RUN_TAG = "prefect.flow_run_id"
FROM_SCRATCH = PretrainedConfig()


@dataclass(frozen=True)
class PipelineResult:
    """What a run came to."""

    model_version: int
    standing: Standing
    run_id: str
    seconds: float
    metrics: dict[str, float]
    popularity: dict[str, float]
    data_report: Path
    ran: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        promoted = self.standing == "champion"
        return asdict(self) | {"promoted": promoted, "data_report": str(self.data_report)}


def step(name: str) -> Any:
    """Make a task: no result is kept by Prefect, the steps keep their own."""
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)


@step("data")
def data_task(home: Home, source: Path, run_id: str) -> DataRef:
    """Read the data and note in MLflow what was read."""
    data = ingest(home, source)
    interactions = data.read().interactions
    log_parameters(run_id, {"data.name": data.name, "data.digest": data.digest})
    mlflow.log_input(
        from_pandas(interactions, name=data.name, digest=data.digest), context="training"
    )
    return data


@step("validate")
def validate_task(home: Home, data: DataRef, run_id: str) -> Path:
    """Validate, keep the report, and stop the flow on a failure.

    Returns:
        The report's page on the interactions; unlike its start page, it can be read offline.
    """
    report = validate(data.read(), home.reports / data.digest, datetime.now(UTC))
    site = report.docs_index.parent
    mlflow.MlflowClient().log_artifacts(run_id, str(site), "data_report")
    report.raise_for_failures()
    return next(site.glob("validations/interactions/**/*.html"))


encoder_task = step("encoder")(encode.train_encoder)
codebook_task = step("codebook")(encode.build_codebook)
publish_task = step("publish")(publish_features)
train_task = step("recommender")(train.train_recommender)
evaluate_task = step("evaluation")(train.evaluate_recommender)
register_task = step("register")(register_model)
promote_task = step("promote")(place_new)


def _of(settings: dict[str, Any], *parts: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name.startswith(parts)}


@flow(name="pipeline", validate_parameters=False)
def pipeline(
    data: Path, home: Path, recipe: str, text_model: PretrainedConfig = FROM_SCRATCH,
    seed: int | None = None,
) -> PipelineResult:  # fmt: skip
    """Validate, encode, publish, train, evaluate, register, promote.

    Args:
        data: a folder that `hymirec.datasets.load` reads.
        home: where all state goes.
        recipe: a name in `hymirec.recipes`.
        text_model: reads the item texts in place of the recipe's own, if it has a source.
        seed: of all trainings, in place of the recipe's.
    """
    started = time.monotonic()
    settings: Recipe = get_recipe(recipe)
    if text_model.source:
        settings = settings.with_text_model(text_model)
    if seed is not None:
        settings = settings.with_seed(seed)
    place = Home.at(home).create()
    tags = {FLOW_RUN_TAG: str(flow_run.get_id() or "")}
    with alone_in(place), tracked_run(place, settings.name, tags) as run_id:
        log_parameters(run_id, settings.flat())
        ref = data_task(place, data, run_id)
        report = validate_task(place, ref, run_id)
        flat = settings.flat()
        encoder: StepResult = encoder_task(place, ref, settings, run_id)
        parts = {
            ENCODER_MODEL_TAG: log_component(
                run_id, encoder, _of(flat, "encoder.", "first_stage.", "first_training.")
            )
        }
        codebook: StepResult = codebook_task(place, encoder, settings, run_id)
        parts[CODEBOOK_MODEL_TAG] = log_component(run_id, codebook, _of(flat, "codebook."))
        publish_task(place, ref, codebook)
        recommender: StepResult = train_task(place, ref, encoder, codebook, settings, run_id)
        evaluation: StepResult = evaluate_task(place, ref, codebook, recommender, run_id)
        mlflow.MlflowClient().log_artifacts(run_id, str(evaluation.directory), "evaluation")
        results = train.read_metrics(evaluation)
        card = model_card(
            ref, settings, encode.read_codebook(codebook).id,
            results["metrics"], results["popularity"], encode.read_health(codebook),
        )  # fmt: skip
        mlflow.log_text(card, CARD)
        version = register_task(
            place, ref, codebook, recommender, evaluation, settings, card, parts
        )
        standing = promote_task(place, version, results["metrics"], results["popularity"])
        mlflow.set_tag("model_version", f"{MODEL_NAME}/{version.version}")
    steps = (encoder, codebook, recommender, evaluation)
    return PipelineResult(
        model_version=int(version.version),
        standing=standing,
        run_id=run_id,
        seconds=time.monotonic() - started,
        metrics=results["metrics"],
        popularity=results["popularity"],
        data_report=report,
        ran=[done.name for done in steps if not done.skipped],
        skipped=[done.name for done in steps if done.skipped],
    )
