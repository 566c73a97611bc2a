"""A new version from all that has come since the served one, put before the gate."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from prefect import flow

from flows.catalogue.items import publish_items
from flows.collect import collect, known_items
from flows.gate.aside import ask_gate
from flows.pipeline import pipeline
from flows.registry.served import ServedVersion, served_versions
from flows.runtime.locks import alone_in
from flows.runtime.notify import HOOKS, notify
from flows.runtime.settings import CHALLENGER, CHAMPION, ENCODER_MODEL_TAG
from flows.tasks import Standing
from hymirec.datasets import read as read_data
from hymirec.home import Home
from hymirec.recipes import get_recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retrained:
    """What a retrain came to.

    Attributes:
        reason: why it was asked for.
        parent_version: the version whose data and recipe it took.
        model_version: the version that came of it; the parent's where nothing had changed.
        standing: what became of it, see `flows.tasks.Standing`.
    """

    reason: str
    parent_version: str
    model_version: str
    standing: Standing
    seconds: float
    ran: list[str]
    skipped: list[str]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return vars(self)


@flow(name="retrain", **HOOKS)
def retrain_flow(
    home: Path, reason: str = "schedule", alias: str = CHAMPION, wait_minutes: float = 0
) -> Retrained:
    """Collect what came since, train as the served version was trained, and judge the result.

    Where nothing has changed every step is skipped.

    Args:
        home: of the version.
        reason: why, for whoever reads about it.
        alias: of the version whose data and recipe are taken.
        wait_minutes: for another run that holds the home, before refusing; 0 refuses at once.
    """
    place = Home.at(home)
    # What the other run does may be a new champion: waited for before anything is looked up.
    with alone_in(place, wait_seconds=60 * wait_minutes):
        (served,) = served_versions(place, alias)
        log.info("retrain: %s: %s", served.name, reason)
        directory = collect(place, served)
    done = pipeline(
        data=directory, home=place.root, wait_minutes=wait_minutes, **_as_trained(place, served)
    )
    standing, said = done.standing, ""
    is_new = str(done.model_version) != str(served.version.version)
    if is_new and standing in (CHAMPION, CHALLENGER):
        _carry_over(place, served, standing)
    if standing == CHALLENGER:
        standing, said = _ask_gate(place, done.model_version)
    if standing == "refused":
        text = f"version {done.model_version} does not pass the gate {said}".strip()
        notify(
            "promotion_refused", text,
            version=done.model_version, parent=served.name, metrics=done.metrics,
        )  # fmt: skip
    return Retrained(
        reason, str(served.version.version), str(done.model_version), standing, done.seconds,
        done.ran, done.skipped,
    )  # fmt: skip


def _carry_over(home: Home, served: ServedVersion, alias: str) -> None:
    """Publish for the version of an alias what was published while it was trained.

    It has the alias by now, so that what is published from here on is published for it too.
    """
    data = read_data(home.data / served.info["data_digest"])
    publish_items(home, known_items(home, served, data.items), alias=alias)


def _as_trained(home: Home, served: ServedVersion) -> dict[str, Any]:
    """Recipe, seed and text model of a version, as the pipeline's arguments."""
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    # Not of its run: that of a refitted codebook trained nothing.
    params = client.get_logged_model(served.version.tags[ENCODER_MODEL_TAG]).params
    source = params.get("encoder.backbone.pretrained.source", "")
    arguments: dict[str, Any] = {"recipe": served.info["recipe"]}
    seed = int(params.get("first_training.seed", 0))
    # A seed that is named is one for all trainings; a recipe may have several.
    if seed != get_recipe(arguments["recipe"]).first_training.seed:
        arguments["seed"] = seed
    if source:
        tuning = params["encoder.backbone.pretrained.tuning"]
        arguments |= {"backbone": source, "tuning": tuning}
    return arguments


def _ask_gate(home: Home, version: int) -> tuple[Standing, str]:
    """What the version is after the gate has compared it with the champion, and the reason.

    Raises:
        HymirecError: the gate could not judge.
    """
    found = ask_gate(home, str(version))
    log.info("gate: %s: %s", found["verdict"], found["reason"])
    standing: Standing = "champion" if found["moved"] else "refused"
    return standing, f"({found['verdict']}: {found['reason']})"
