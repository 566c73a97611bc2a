"""A new version from all that has come since the served one, put before the gate."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow

from flows.collect import collect
from flows.notify import notify, notify_failure
from flows.pipeline import pipeline
from flows.served import served_versions
from flows.settings import CHAMPION
from hymirec.home import Home

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retrained:
    """What a retrain came to.

    Attributes:
        reason: why it was asked for.
        parent_version: the version whose data and recipe it took.
        model_version: the version that came of it; the parent's where nothing had changed.
        standing: what became of it, see `flows.promote.Standing`.
    """

    reason: str
    parent_version: str
    model_version: str
    standing: str
    seconds: float
    ran: list[str]
    skipped: list[str]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return vars(self)


@flow(name="retrain", on_failure=[notify_failure], on_crashed=[notify_failure])
def retrain_flow(home: Path, reason: str = "schedule", alias: str = CHAMPION) -> Retrained:
    """Collect what came since, train as the served version was trained, and judge the result.

    Where nothing has changed every step is skipped.

    Args:
        home: of the version.
        reason: why, for whoever reads about it.
        alias: of the version whose data and recipe are taken.
    """
    place = Home.at(home)
    (served,) = served_versions(place, alias)
    log.info("retrain: %s: %s", served.name, reason)
    directory = collect(place, served)
    done = pipeline(data=directory, home=place.root, recipe=served.info["recipe"])
    if done.standing == "refused":
        notify(
            "promotion_refused", f"version {done.model_version} does not pass the gate",
            version=done.model_version, parent=served.name, metrics=done.metrics,
        )  # fmt: skip
    return Retrained(
        reason, str(served.version.version), str(done.model_version), done.standing, done.seconds,
        done.ran, done.skipped,
    )  # fmt: skip
