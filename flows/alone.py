"""Every step of the pipeline as a flow of its own.

A flow takes what those before it made of the same data and recipe, and says which of them has to
run first where it is not there. All take the latest validated data unless a digest names another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import flow

from flows import tasks
from flows.runtime.locks import PUBLICATION, VALIDATION
from flows.runtime.notify import HOOKS
from flows.runtime.settings import CODEBOOK_MODEL_TAG, ENCODER_MODEL_TAG
from flows.steps import encode, train
from flows.steps.data import DataRef, read_ref
from flows.steps.results import StepResult
from flows.tasks import Tuning, chosen_recipe
from flows.tracking.record import log_component, log_parameters
from flows.tracking.runs import FlowResult, FlowRun, flow_run
from flows.validation.admission import BadRows, admitted, read_verdict
from hymirec.errors import UsageError
from hymirec.home import Home
from hymirec.recipes import Recipe


@flow(name="validate", **HOOKS)
def validate(data: Path, home: Path, bad_rows: BadRows = "fail") -> FlowResult:
    """Read data and validate it; what passes is what the other flows take.

    Args:
        data: a folder that `hymirec.datasets.load` reads.
        home: where all state goes.
        bad_rows: what becomes of rows that do not meet the suites: fail, drop or keep.
    """
    place = Home.at(home).create()
    with flow_run(place, "validate", lock=VALIDATION, wait=True) as run:
        read = tasks.data_task(place, data, run.run_id)
        checked = tasks.validate_task(place, read_ref(place, read), run.run_id, bad_rows)
        run.steps.extend([read, checked])
        verdict = read_verdict(checked)
        return run.result(
            data=read_ref(place, checked).digest, warnings=verdict.warnings,
            dropped=verdict.dropped,
            data_report=str(place.reports / verdict.page),
        )  # fmt: skip


@flow(name="train-encoder", **HOOKS)
def train_encoder(
    home: Path, recipe: str = "small", backbone: str = "", tuning: Tuning = "frozen",
    seed: int | None = None, data: str = "",
) -> FlowResult:  # fmt: skip
    """Train the content encoder and embed the catalogue.

    Args:
        home: where all state is.
        recipe: a name in `hymirec.recipes`.
        backbone: reads the item texts in place of the recipe's own: a directory or a hub name.
        tuning: how much of the backbone trains: full, lora or frozen.
        seed: of all trainings, in place of the recipe's.
        data: digest of validated data, or its beginning; the latest if none is given.
    """
    settings = chosen_recipe(recipe, backbone, tuning, seed)
    with _training("train-encoder", home, data, settings) as (run, place, ref):
        done, _ = tasks.encoder_task(place, ref, settings, run.run_id)
        run.steps.append(done)
        return run.result(data=ref.digest, encoder=done.digest)


@flow(name="build-codebook", **HOOKS)
def build_codebook(
    home: Path, recipe: str = "small", backbone: str = "", tuning: Tuning = "frozen",
    seed: int | None = None, data: str = "",
) -> FlowResult:  # fmt: skip
    """Fit the codebook on the encoded catalogue; arguments as `train_encoder`."""
    settings = chosen_recipe(recipe, backbone, tuning, seed)
    with _training("build-codebook", home, data, settings) as (run, place, ref):
        encoder = _encoder(place, ref, settings)
        done, _ = tasks.codebook_task(place, encoder, settings, run.run_id)
        run.steps.append(done)
        return run.result(data=ref.digest, codebook=encode.read_codebook(done).id)


@flow(name="publish-features", **HOOKS)
def publish_features(
    home: Path, recipe: str = "", backbone: str = "", tuning: Tuning = "frozen",
    seed: int | None = None, data: str = "", again: bool = False,
) -> FlowResult:  # fmt: skip
    """Publish histories and codes to the feature store.

    With a recipe, under the codebook that was built of the same data. Without, under the codebook
    of every version that an alias names: items that it has not seen are encoded on the way.

    Args:
        home: where all state is.
        recipe: as `train_encoder`; none for the versions that are served.
        backbone: as `train_encoder`.
        tuning: as `train_encoder`.
        seed: as `train_encoder`.
        data: as `train_encoder`.
        again: publish what seems to be published too, as after the loss of a store.
    """
    place = Home.at(home).create()
    ref = admitted(place, data)
    with flow_run(place, "publish-features", lock=PUBLICATION, wait=True) as run:
        tasks.log_data(ref, run.run_id)
        if recipe:
            settings = chosen_recipe(recipe, backbone, tuning, seed)
            codebook = _codebook(place, ref, settings)
            run.steps.append(tasks.publish_task(place, ref, codebook, run.run_id, again=again))
        else:
            run.steps.extend(tasks.publish_served_task(place, ref, run.run_id, again=again))
        return run.result(data=ref.digest)


@flow(name="train-recommender", **HOOKS)
def train_recommender(
    home: Path, recipe: str = "small", backbone: str = "", tuning: Tuning = "frozen",
    seed: int | None = None, data: str = "",
) -> FlowResult:  # fmt: skip
    """Train the recommender on published histories; arguments as `train_encoder`."""
    settings = chosen_recipe(recipe, backbone, tuning, seed)
    with _training("train-recommender", home, data, settings) as (run, place, ref):
        encoder, codebook = _encoder(place, ref, settings), _codebook(place, ref, settings)
        done = tasks.train_task(place, ref, encoder, codebook, settings, run.run_id)
        run.steps.append(done)
        return run.result(data=ref.digest, recommender=done.digest)


@flow(name="evaluate", **HOOKS)
def evaluate(
    home: Path, recipe: str = "small", backbone: str = "", tuning: Tuning = "frozen",
    seed: int | None = None, data: str = "",
) -> FlowResult:  # fmt: skip
    """Rank every user's test item with the model and with popularity; as `train_encoder`."""
    settings = chosen_recipe(recipe, backbone, tuning, seed)
    with _training("evaluate", home, data, settings) as (run, place, ref):
        codebook = _codebook(place, ref, settings)
        recommender = _recommender(place, ref, settings)
        done = tasks.evaluate_task(place, ref, codebook, recommender, settings, run.run_id)
        run.steps.append(done)
        return run.result(data=ref.digest, **train.read_metrics(done))


@flow(name="register", **HOOKS)
def register(
    home: Path, recipe: str = "small", backbone: str = "", tuning: Tuning = "frozen",
    seed: int | None = None, data: str = "",
) -> FlowResult:  # fmt: skip
    """Register the evaluated model as a version; arguments as `train_encoder`."""
    settings = chosen_recipe(recipe, backbone, tuning, seed)
    with _training("register", home, data, settings) as (run, place, ref):
        encoder, codebook = _encoder(place, ref, settings), _codebook(place, ref, settings)
        recommender = _recommender(place, ref, settings)
        evaluation = _evaluation(place, ref, settings)
        parts = {
            ENCODER_MODEL_TAG: log_component(run.run_id, encoder, tasks.encoder_settings(settings)),
            CODEBOOK_MODEL_TAG: log_component(
                run.run_id, codebook, tasks.codebook_settings(settings)
            ),
        }
        done = tasks.register_task(
            place, ref, codebook, recommender, evaluation, settings, parts, run.run_id
        )
        run.steps.append(done)
        return run.result(data=ref.digest, model_version=done.version)


@flow(name="promote", **HOOKS)
def promote(
    home: Path, recipe: str = "small", backbone: str = "", tuning: Tuning = "frozen",
    seed: int | None = None, data: str = "",
) -> FlowResult:  # fmt: skip
    """Let the gate judge the registered version, once; arguments as `train_encoder`."""
    settings = chosen_recipe(recipe, backbone, tuning, seed)
    with _training("promote", home, data, settings) as (run, place, ref):
        evaluation = _evaluation(place, ref, settings)
        known = tasks.find_version(tasks.package_digest(evaluation.digest))
        if known is None:
            raise _not_yet("register", ref, settings)
        done = tasks.promote_task(place, int(known.version), evaluation, run.run_id)
        run.steps.append(done)
        number = int(known.version)
        return run.result(model_version=number, standing=tasks.standing_of(number, done))


@contextmanager
def _training(
    name: str, home: Path, data: str, recipe: Recipe
) -> Iterator[tuple[FlowRun, Home, DataRef]]:
    """Open the run of a flow that is about data and a recipe, and log both."""
    place = Home.at(home).create()
    ref = admitted(place, data)
    with flow_run(place, name) as run:
        tasks.log_data(ref, run.run_id)
        log_parameters(run.run_id, recipe.flat())
        yield run, place, ref


def _encoder(home: Home, data: DataRef, recipe: Recipe) -> StepResult:
    return _done(encode.find_encoder(home, data, recipe), "train-encoder", data, recipe)


def _codebook(home: Home, data: DataRef, recipe: Recipe) -> StepResult:
    encoder = _encoder(home, data, recipe)
    return _done(encode.find_codebook(home, encoder, recipe), "build-codebook", data, recipe)


def _recommender(home: Home, data: DataRef, recipe: Recipe) -> StepResult:
    found = train.find_recommender(home, _codebook(home, data, recipe), recipe)
    return _done(found, "train-recommender", data, recipe)


def _evaluation(home: Home, data: DataRef, recipe: Recipe) -> StepResult:
    found = train.find_evaluation(home, _recommender(home, data, recipe))
    return _done(found, "evaluate", data, recipe)


def _done(found: StepResult | None, name: str, data: DataRef, recipe: Recipe) -> StepResult:
    if found is None:
        raise _not_yet(name, data, recipe)
    return found


def _not_yet(name: str, data: DataRef, recipe: Recipe) -> UsageError:
    return UsageError(
        f"data {data.digest} with recipe {recipe.name} has not been through {name}, or by other "
        f"code: run `hymirec flow run {name}` first"
    )
