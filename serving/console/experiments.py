"""What the pages say of experiments: stored state and readings as values for templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from features.logs.experiments import ExperimentStore
from features.logs.readings import Reading, ReadingLog
from features.logs.readouts import ReadoutMaker
from features.logs.standing import StoredExperiment
from hymirec.abtest.decisions import verdict
from hymirec.abtest.definition import Experiment
from hymirec.abtest.metrics import METRICS
from hymirec.home import Home
from serving.console.charts import Chart, Mark, Point, draw

Action = Literal["start", "ramp", "pause", "resume", "stop", "conclude", "kill"]
ACTIONS: dict[str, list[Action]] = {
    "draft": ["start", "stop"],
    "running": ["ramp", "pause", "conclude", "stop", "kill"],
    "paused": ["resume", "conclude", "stop", "kill"],
}
"""What can be done in which state; nothing in any other."""
WORDS: dict[Action, tuple[str, str]] = {
    "start": ("Start", "The first step of the ramp begins: its users get their variants."),
    "ramp": ("Ramp", "More users take part now; those who do keep their variant."),
    "pause": ("Pause", "Everybody gets the champion until it goes on; nobody loses a variant."),
    "resume": ("Resume", "It goes on where it was paused, with the same users."),
    "stop": ("Stop", "It ends without a winner, for good, and its traffic is free."),
    "conclude": ("Conclude", "It ends with a winner, for good, and its traffic is free."),
    "kill": ("Kill switch", "Everybody gets the champion within a second, and it ends for good."),
}
"""What an action is called, and what it does."""
READINGS_SHOWN = 2000


@dataclass(frozen=True)
class Row:
    """One experiment in the list."""

    stored: StoredExperiment
    reading: Reading | None

    @property
    def lead(self) -> dict[str, Any] | None:
        """The primary metric of the first treatment, as it was last read."""
        found = self.reading.readout["primary"] if self.reading else []
        return found[0] if found else None

    @property
    def mismatch(self) -> str:
        """Sample-ratio mismatch in a word."""
        if self.reading is None:
            return "not read yet"
        found = self.reading.readout
        return "mismatch" if found["assigned"]["found"] or found["exposed"]["found"] else "fine"

    @property
    def num_users(self) -> int:
        """Users who were shown lists."""
        return sum(self.reading.readout["exposed"]["counts"].values()) if self.reading else 0


def rows(store: ExperimentStore, readings: ReadingLog) -> list[Row]:
    """All experiments, the newest first, each with its last reading."""
    found = []
    for stored in store.all():
        latest = readings.of_experiment(stored.name, limit=1)
        found.append(Row(stored, latest[0] if latest else None))
    return found


def charts(stored: StoredExperiment, readings: Sequence[Reading]) -> list[Chart]:
    """The primary metric over time, one chart for each treatment; of interleaving preference."""
    steps = _steps(readings)
    experiment = stored.experiment
    found = []
    if experiment.mode == "interleaving":
        name = experiment.treatments[0].name
        points = [_preference(one) for one in readings]
        title = f"Preference for {name}"
        zero = Mark(0.0, "no preference")
        chart = draw("preference", title, [one for one in points if one], across=[zero],
                     upright=steps)  # fmt: skip
        return [chart] if chart else []
    for number, variant in enumerate(experiment.treatments):
        points = [_lift(one, variant.name) for one in readings]
        chart = draw(
            f"lift-{number}", f"Lift of {variant.name} in {experiment.primary}",
            [one for one in points if one], as_percent=True, across=[Mark(0.0, "no difference")],
            upright=steps,
        )  # fmt: skip
        if chart:
            found.append(chart)
    return found


def _lift(reading: Reading, variant: str) -> Point | None:
    for one in reading.readout["primary"]:
        if one["variant"] == variant and one["lift"] is not None:
            return Point(reading.time, one["lift"], *one["lift_interval"])
    return None


def _preference(reading: Reading) -> Point | None:
    found = reading.readout["preference"]
    return Point(reading.time, found["preference"], *found["interval"]) if found else None


def _steps(readings: Sequence[Reading]) -> list[Mark]:
    """When the share changed."""
    found: list[Mark] = []
    before = None
    for one in readings:
        share = one.readout["share"]
        if share != before:
            found.append(Mark(one.time, f"{100 * share:.3g} %"))
        before = share
    return found


def read_now(home: Home, stored: StoredExperiment) -> dict[str, Any]:
    """Read an experiment out for looking at: nothing is decided and nothing kept."""
    maker = ReadoutMaker(home)
    try:
        return maker.read(stored).to_json()
    finally:
        maker.close()


@dataclass(frozen=True)
class Plan:
    """What an experiment needs, in lines; whether one of them is a warning."""

    says: list[str]
    warns: list[str]


def plan(home: Home, experiment: Experiment) -> Plan:
    """What an experiment needs, from what was served of late."""
    maker = ReadoutMaker(home)
    try:
        found = maker.plan(experiment)
    finally:
        maker.close()
    if isinstance(found, str):
        return Plan([_sentence(found)], [])
    lacks = found.shortfalls(experiment)
    return Plan([_sentence(found.needs(experiment))], [_sentence(one) for one in lacks])


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}."


def estimates(readout: dict[str, Any]) -> list[dict[str, Any]]:
    """All estimates of a readout as rows: kind, what each says, and its verdict in a word."""
    kinds = [("primary", one) for one in readout["primary"]]
    kinds += [("secondary", one) for one in readout["secondary"]]
    kinds += [(one["segment"], one["estimate"]) for one in readout["segments"]]
    return [
        one
        | {
            "kind": kind,
            "verdict": verdict(one["metric"], one["interval"]),
            "says": METRICS[one["metric"]].says,
        }
        for kind, one in kinds
    ]
