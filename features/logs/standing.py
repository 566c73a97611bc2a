"""An experiment and where it stands, and beside which others it can run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from hymirec.abtest.decisions import Progress
from hymirec.abtest.definition import Experiment
from hymirec.errors import UsageError

State = Literal["draft", "running", "paused", "stopped", "rolled_back", "concluded"]
HOLDS_TRAFFIC: tuple[State, ...] = ("running", "paused")
"""States in which an experiment's users are nobody else's."""


@dataclass(frozen=True)
class StoredExperiment:
    """An experiment and where it stands.

    Attributes:
        experiment: as it was declared; once started it never changes.
        state: draft, running, paused; or ended: stopped, rolled_back, concluded.
        step: of the ramp, from 0.
        versions: registered version of each variant, fixed when it started; empty before.
        created: seconds since 1970 UTC, like those that follow.
        started: None before.
        step_since: when the present step began, later by as long as it was paused; None before.
        ended: None before.
        winner: variant that won, empty where none did.
        reason: of the last change.
        revision: grows with every change.
    """

    experiment: Experiment
    state: State
    step: int
    versions: dict[str, int]
    created: float
    started: float | None
    step_since: float | None
    ended: float | None
    winner: str
    reason: str
    revision: int

    @property
    def name(self) -> str:
        """Of the experiment."""
        return self.experiment.name

    @property
    def share(self) -> float:
        """Of its traffic that takes part at present."""
        return self.experiment.ramp[self.step].share if self.state == "running" else 0.0

    @property
    def chooses_versions(self) -> bool:
        """Whether it decides which version answers, not only what one is asked with."""
        return self.experiment.mode != "ab" or len(set(self.versions.values())) > 1

    @property
    def progress(self) -> Progress:
        """For `hymirec.abtest.decisions`; of one that has started."""
        assert self.started is not None
        assert self.step_since is not None
        return Progress(self.step, self.started, self.step_since)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return vars(self) | {
            "experiment": self.experiment.model_dump(),
            "name": self.name,
            "share": self.share,
        }


def refuse_overlap(stored: StoredExperiment, others: Iterable[StoredExperiment]) -> None:
    """Refuse to start an experiment beside those that hold traffic.

    Raises:
        UsageError: one of the same layer has some of its users, or one of another decides the same.
    """
    traffic = stored.experiment.traffic
    for other in others:
        if other.name != stored.name and traffic.overlaps(other.experiment.traffic):
            has = other.experiment.traffic
            raise UsageError(
                f"{stored.name} wants {traffic.begin:g} to {traffic.end:g} of layer "
                f"{traffic.layer!r}, and {other.name} ({other.state}) has {has.begin:g} to "
                f"{has.end:g}: nobody can be in both"
            )
        if other.experiment.traffic.layer == traffic.layer:
            continue
        if stored.chooses_versions and other.chooses_versions:
            raise UsageError(
                f"{stored.name} and {other.name} ({other.state}) both choose versions, so they "
                f"have to share layer {other.experiment.traffic.layer!r}"
            )
        both = stored.experiment.settings & other.experiment.settings
        if both:
            raise UsageError(
                f"{stored.name} and {other.name} ({other.state}) both set {min(both)}, so they "
                f"have to share layer {other.experiment.traffic.layer!r}"
            )
