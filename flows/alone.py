"""Every step of the pipeline as a flow of its own.

A flow takes what those before it made of the same data and recipe, and says which of them has to
run first where it is not there. All take the latest validated data unless a digest names another.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prefect import Flow, flow

from flows import tasks
from flows.runtime.locks import FOREVER, PUBLICATION, VALIDATION
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

Work = Callable[[FlowRun, Home, DataRef, Recipe], FlowResult]

_ARGUMENTS = """
Args:
    home: where all state is.
    recipe: a name in `hymirec.recipes`, or `module:function`.
    backbone: reads the item texts in place of the recipe's own: a directory or a hub name.
    tuning: how much of the backbone trains: full, lora or frozen.
    seed: of all trainings, in place of the recipe's.
    data: digest of validated data, or its beginning; the latest if none is given.
"""


@flow(name="validate", **HOOKS)
def validate(data: Path, home: Path, bad_rows: BadRows = "fail") -> FlowResult:
    """Read data and validate it; what passes is what the other flows take.

    Args:
        data: a folder that `hymirec.datasets.load` reads.
        home: where all state goes.
        bad_rows: what becomes of rows that do not meet the suites: fail, drop or keep.
    """
    place = Home.at(home).create()
    with flow_run(place, "validate", lock=VALIDATION, wait_seconds=FOREVER) as run:
        read = tasks.data_task(place, data, run.run_id)
        checked = tasks.validate_task(place, read_ref(place, read), run.run_id, bad_rows)
        run.steps.extend([read, checked])
        verdict = read_verdict(checked)
        return run.result(
            data=read_ref(place, checked).digest, warnings=verdict.warnings,
            dropped=verdict.dropped,
            data_report=str(place.reports / verdict.page),
        )  # fmt: skip


def _of_recipe(name: str) -> Callable[[Work], Flow[..., FlowResult]]:
    """Make a flow of work on data and a recipe; what is named by its caller is the same for all."""

    def made(work: Work) -> Flow[..., FlowResult]:
        def run_it(
            home: Path, recipe: str = "small", backbone: str = "", tuning: Tuning = "frozen",
            seed: int | None = None, data: str = "",
        ) -> FlowResult:  # fmt: skip
            settings = chosen_recipe(recipe, backbone, tuning, seed)
            place = Home.at(home).create()
            ref = admitted(place, data)
            with flow_run(place, name) as run:
                tasks.log_data(ref, run.run_id)
                log_parameters(run.run_id, settings.flat())
                return work(run, place, ref, settings)

        # By these Prefect finds the flow again, and says what it does and takes.
        run_it.__name__ = run_it.__qualname__ = work.__name__
        run_it.__doc__ = f"{work.__doc__}\n{_ARGUMENTS}"
        return flow(name=name, **HOOKS)(run_it)

    return made


@_of_recipe("train-encoder")
def train_encoder(run: FlowRun, home: Home, data: DataRef, recipe: Recipe) -> FlowResult:
    """Train the content encoder and embed the catalogue."""
    done, _ = tasks.encoder_task(home, data, recipe, run.run_id)
    run.steps.append(done)
    return run.result(data=data.digest, encoder=done.digest)


@_of_recipe("build-codebook")
def build_codebook(run: FlowRun, home: Home, data: DataRef, recipe: Recipe) -> FlowResult:
    """Fit the codebook on the encoded catalogue."""
    done, _ = tasks.codebook_task(home, _encoder(home, data, recipe), recipe, run.run_id)
    run.steps.append(done)
    return run.result(data=data.digest, codebook=encode.read_codebook(done).id)


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
        recipe: as `train-encoder`; none for the versions that are served.
        backbone: as `train-encoder`.
        tuning: as `train-encoder`.
        seed: as `train-encoder`.
        data: as `train-encoder`.
        again: publish what seems to be published too, as after the loss of a store.
    """
    place = Home.at(home).create()
    ref = admitted(place, data)
    with flow_run(place, "publish-features", lock=PUBLICATION, wait_seconds=FOREVER) as run:
        tasks.log_data(ref, run.run_id)
        if recipe:
            settings = chosen_recipe(recipe, backbone, tuning, seed)
            codebook = _codebook(place, ref, settings)
            run.steps.append(tasks.publish_task(place, ref, codebook, run.run_id, again=again))
        else:
            run.steps.extend(tasks.publish_served_task(place, ref, run.run_id, again=again))
        return run.result(data=ref.digest)


@_of_recipe("train-recommender")
def train_recommender(run: FlowRun, home: Home, data: DataRef, recipe: Recipe) -> FlowResult:
    """Train the recommender on published histories."""
    encoder, codebook = _encoder(home, data, recipe), _codebook(home, data, recipe)
    done = tasks.train_task(home, data, encoder, codebook, recipe, run.run_id)
    run.steps.append(done)
    return run.result(data=data.digest, recommender=done.digest)


@_of_recipe("evaluate")
def evaluate(run: FlowRun, home: Home, data: DataRef, recipe: Recipe) -> FlowResult:
    """Rank every user's test item with the model and with popularity."""
    codebook, recommender = _codebook(home, data, recipe), _recommender(home, data, recipe)
    done = tasks.evaluate_task(home, data, codebook, recommender, recipe, run.run_id)
    run.steps.append(done)
    return run.result(data=data.digest, **train.read_metrics(done))


@_of_recipe("register")
def register(run: FlowRun, home: Home, data: DataRef, recipe: Recipe) -> FlowResult:
    """Register the evaluated model as a version."""
    encoder, codebook = _encoder(home, data, recipe), _codebook(home, data, recipe)
    recommender, evaluation = _recommender(home, data, recipe), _evaluation(home, data, recipe)
    train.log_evaluation(run.run_id, evaluation)  # what is asked of a version, its run tells
    parts = {
        ENCODER_MODEL_TAG: log_component(run.run_id, encoder, tasks.encoder_settings(recipe)),
        CODEBOOK_MODEL_TAG: log_component(run.run_id, codebook, tasks.codebook_settings(recipe)),
    }
    done = tasks.register_task(
        home, data, codebook, recommender, evaluation, recipe, parts, run.run_id
    )
    run.steps.append(done)
    return run.result(data=data.digest, model_version=done.version)


@_of_recipe("promote")
def promote(run: FlowRun, home: Home, data: DataRef, recipe: Recipe) -> FlowResult:
    """Let the gate judge the registered version, once."""
    evaluation = _evaluation(home, data, recipe)
    known = tasks.find_version(tasks.package_digest(evaluation.digest))
    if known is None:
        raise _not_yet("register", data, recipe)
    done = tasks.promote_task(home, int(known.version), evaluation, run.run_id)
    run.steps.append(done)
    number = int(known.version)
    return run.result(model_version=number, standing=tasks.standing_of(number, done))


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
