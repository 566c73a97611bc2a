"""From a folder of interactions to the model that answers, as one flow.

Its steps are the tasks of `flows.tasks`, rather than the flows of `flows.alone`: every flow run
costs a second, a task nearly nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow

from flows import tasks
from flows.runtime.notify import HOOKS
from flows.runtime.settings import CODEBOOK_MODEL_TAG, ENCODER_MODEL_TAG
from flows.steps import train
from flows.steps.data import read_ref
from flows.tasks import Standing, Tuning, chosen_recipe
from flows.tracking.record import log_parameters
from flows.tracking.runs import flow_run
from flows.validation.admission import BadRows, read_verdict
from hymirec.home import Home


@dataclass(frozen=True)
class PipelineResult:
    """What a run came to.

    Attributes:
        standing: of the version now, see `flows.tasks.Standing`.
        ran: steps that were done.
        skipped: steps whose inputs, settings and code had not changed.
        data_report: the report's page on the interactions.
        warnings: of the validation, see `flows.validation.admission.Verdict`.
    """

    model_version: int
    standing: Standing
    run_id: str
    seconds: float
    metrics: dict[str, float]
    popularity: dict[str, float]
    data_report: Path
    warnings: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        promoted = self.standing == "champion"
        return asdict(self) | {"promoted": promoted, "data_report": str(self.data_report)}


@flow(name="pipeline", **HOOKS)
def pipeline(
    data: Path,
    home: Path,
    recipe: str = "small",
    backbone: str = "",
    tuning: Tuning = "frozen",
    seed: int | None = None,
    bad_rows: BadRows = "fail",
    wait_minutes: float = 0,
) -> PipelineResult:
    """Validate, encode, publish, train, evaluate, register, promote.

    Args:
        data: a folder that `hymirec.datasets.load` reads.
        home: where all state goes.
        recipe: a name in `hymirec.recipes`, or `module:function`.
        backbone: reads the item texts in place of the recipe's own: a directory or a hub name.
        tuning: how much of the backbone trains: full, lora or frozen.
        seed: of all trainings, in place of the recipe's.
        bad_rows: what becomes of rows that do not meet the suites: fail, drop or keep.
        wait_minutes: for another run that holds the home, before refusing; 0 refuses at once.
    """
    settings = chosen_recipe(recipe, backbone, tuning, seed)
    place = Home.at(home).create()
    with flow_run(place, "pipeline", wait_seconds=60 * wait_minutes, run_name=settings.name) as run:
        run_id = run.run_id
        log_parameters(run_id, settings.flat())
        read = tasks.data_task(place, data, run_id)
        checked = tasks.validate_task(place, read_ref(place, read), run_id, bad_rows)
        ref = read_ref(place, checked)
        encoder, encoder_model = tasks.encoder_task(place, ref, settings, run_id)
        codebook, codebook_model = tasks.codebook_task(place, encoder, settings, run_id)
        published = tasks.publish_task(place, ref, codebook, run_id)
        recommender = tasks.train_task(place, ref, encoder, codebook, settings, run_id)
        evaluation = tasks.evaluate_task(place, ref, codebook, recommender, settings, run_id)
        parts = {ENCODER_MODEL_TAG: encoder_model, CODEBOOK_MODEL_TAG: codebook_model}
        version = tasks.register_task(
            place, ref, codebook, recommender, evaluation, settings, parts, run_id
        )
        judged = tasks.promote_task(place, version.version, evaluation, run_id)
        run.steps.extend(
            [read, checked, encoder, codebook, published, recommender, evaluation, version, judged]
        )
        verdict, results = read_verdict(checked), train.read_metrics(evaluation)
        return PipelineResult(
            model_version=version.version,
            standing=tasks.standing_of(version.version, judged),
            run_id=run_id,
            seconds=run.seconds,
            metrics=results["metrics"],
            popularity=results["popularity"],
            data_report=place.reports / verdict.page,
            warnings=verdict.warnings,
            ran=run.ran,
            skipped=run.skipped,
        )
