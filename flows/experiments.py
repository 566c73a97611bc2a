"""Reading experiments out on schedule, and doing what follows.

Statistics and rules are `hymirec.abtest`'s, beginning and end are `flows.registry.lifecycle`'s.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric
from prefect import flow
from prefect.artifacts import create_markdown_artifact

from features.logs.experiments import ExperimentStore
from features.logs.readings import ReadingLog
from features.logs.readouts import ReadoutMaker
from features.logs.standing import StoredExperiment
from flows.registry.lifecycle import conclude
from flows.runtime.notify import HOOKS, notify
from hymirec.abtest.decisions import PERSON, Decision, decide
from hymirec.abtest.readout import Readout
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home

log = logging.getLogger(__name__)

ACTOR = "experiment-readout"
TRACKED_IN = "experiments"
"""MLflow experiment that holds a run for each of ours."""
EXPERIMENT_TAG = "experiment"
TOLD = ("pause", "roll_back", "conclude")
"""Decisions that people are told of."""


@dataclass(frozen=True)
class ReadOut:
    """What came of one experiment.

    Attributes:
        stored: as it stands now.
        readout: the numbers.
        decision: what followed from them.
        asks: whether a person has to decide, and did not have to at the readout before.
    """

    stored: StoredExperiment
    readout: Readout
    decision: Decision
    asks: bool = False

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "name": self.stored.name,
            "state": self.stored.state,
            "share": self.stored.share,
            "action": self.decision.action,
            "reason": self.decision.reason,
            "readout": self.readout.to_json(),
        }


@dataclass(frozen=True)
class ReadOuts:
    """What came of all experiments that were read out."""

    experiments: list[ReadOut]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {"experiments": [one.to_json() for one in self.experiments]}


def read_out_experiment(
    home: Home, name: str, *, act: bool = True, clock: Callable[[], float] = time.time
) -> ReadOut:
    """Read one experiment out, decide, act on it and write all that down.

    Args:
        home: whose.
        name: of the experiment.
        act: whether to do what was decided, or only to say it.
        clock: tells what time it is; simulations have their own.

    Raises:
        UsageError: there is no such experiment, or it has not started.
        HymirecError: a log cannot be read or written.
    """
    with (
        closing(ExperimentStore(home, clock=clock)) as store,
        closing(ReadoutMaker(home)) as maker,
        closing(ReadingLog(home)) as readings,
    ):
        stored = store.get(name)
        if stored.started is None:
            raise UsageError(f"{name} has not started: hymirec experiment start {name}")
        readout = maker.read(stored, clock())
        if stored.state != "running":
            return ReadOut(stored, readout, Decision("hold", f"it is {stored.state}"))
        decision = decide(stored.experiment, stored.progress, readout)
        asks = False
        if act:
            stored, decision = _act(home, store, stored, decision)
            before = readings.of_experiment(name, limit=1)
            asks = PERSON in decision.reason and not (before and PERSON in before[0].reason)
            readings.append(readout, decision)
            _track(home, stored, readout, decision)
            log.info("experiment %s: %s: %s", name, decision.action, decision.reason)
    return ReadOut(stored, readout, decision, asks)


def _act(
    home: Home, store: ExperimentStore, stored: StoredExperiment, decision: Decision
) -> tuple[StoredExperiment, Decision]:
    """Do what was decided; returns it, or what kept it from being done."""
    name, reason, evidence = stored.name, decision.reason, decision.evidence
    try:
        if decision.action == "ramp":
            # The step that the numbers are of has been left once, whoever else reads them out.
            following = stored.step + 1
            stored = store.ramp(name, following, reason=reason, evidence=evidence, actor=ACTOR)
        elif decision.action == "pause":
            stored = store.pause(name, reason=reason, evidence=evidence, actor=ACTOR)
        elif decision.action == "roll_back":
            stored = store.end(name, "rolled_back", reason=reason, evidence=evidence, actor=ACTOR)
        elif decision.action == "conclude":
            promote = stored.experiment.on_win == "promote"
            stored = conclude(
                home, name, decision.winner, reason=reason, evidence=evidence, actor=ACTOR,
                promote=promote, clock=store.clock,
            )  # fmt: skip
    except HymirecError as error:
        before, stored = stored, store.get(name)
        if not isinstance(error, UsageError):
            if stored.state != "concluded":
                raise
            return stored, replace(decision, reason=f"{reason}; but {error}")
        is_as_it_was = (stored.state, stored.step) == ("running", before.step)
        waits = f": {PERSON}" if is_as_it_was else ""  # else somebody was faster
        held = f"{reason}; but {error}{waits}"
        return stored, replace(decision, action="hold", reason=held, winner="")
    return stored, decision


def _track(home: Home, stored: StoredExperiment, readout: Readout, decision: Decision) -> None:
    """Add a readout to the experiment's run in MLflow."""
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    run_id = _run_of(home, client, stored)
    step = int(readout.time - (stored.started or readout.time))
    values = {"share": readout.share, "users": float(readout.num_exposed)}
    for one in readout.primary:
        values[f"{one.variant}/difference"] = one.difference
        if one.lift is not None:
            values[f"{one.variant}/lift"] = one.lift
        for end, value in zip(("low", "high"), one.lift_interval, strict=True):
            if value is not None:
                values[f"{one.variant}/lift_{end}"] = value
    for rail in readout.guardrails:
        if rail.room is not None:
            values[f"{rail.variant}/room_{rail.metric}"] = rail.room
    when = int(1000 * readout.time)
    client.log_batch(run_id, [Metric(name, value, when, step) for name, value in values.items()])
    found = {"decision": vars(decision), "readout": readout.to_json()}
    client.log_dict(run_id, found, f"readouts/{step:09}.json")
    client.set_tag(run_id, "state", stored.state)
    client.set_tag(run_id, "decision", f"{decision.action}: {decision.reason}")
    if stored.ended is not None:
        client.set_terminated(run_id)


def _run_of(home: Home, client: mlflow.MlflowClient, stored: StoredExperiment) -> str:
    tracked = client.get_experiment_by_name(TRACKED_IN)
    # Named, or MLflow writes artifacts under the folder that the command was called in.
    where = (
        tracked.experiment_id if tracked
        else client.create_experiment(TRACKED_IN, home.artifact_uri)
    )  # fmt: skip
    runs = client.search_runs([where], f"tags.{EXPERIMENT_TAG} = '{stored.name}'", max_results=1)
    if runs:
        return str(runs[0].info.run_id)
    run = client.create_run(where, run_name=stored.name, tags={EXPERIMENT_TAG: stored.name})
    for variant in stored.experiment.variants:
        client.log_param(run.info.run_id, f"{variant.name}/version", stored.versions[variant.name])
    client.log_dict(run.info.run_id, stored.experiment.model_dump(), "experiment.json")
    return str(run.info.run_id)


def read_out_running(
    home: Home, names: Sequence[str] = (), *, act: bool = True
) -> Iterator[ReadOut]:
    """Read out experiments, by default all that run; one that cannot be read stops no other.

    Raises:
        Exception: of the first that could not be read, when what came of the others has been given.
    """
    failed: list[Exception] = []
    with closing(ExperimentStore(home)) as store:
        running = [one.name for one in store.active() if one.state == "running"]
    for name in names or running:
        try:
            found = read_out_experiment(home, name, act=act)
        except Exception as error:  # whatever it is, the others' guardrails must not wait for it
            failed.append(error)
            if len(names) != 1:
                log.warning("experiment %s cannot be read out: %s", name, error)
        else:
            yield found
    if failed:
        raise failed[0]


@flow(name="experiment-readout", **HOOKS)
def experiment_readout(home: Path, names: Sequence[str] = ()) -> ReadOuts:
    """Read out running experiments and do what follows: ramp, pause, roll back, conclude or hold.

    Args:
        home: where all state is.
        names: which; by default all that run.
    """
    found: list[ReadOut] = []
    try:
        # Telling may take its time, and guardrails must not wait for it.
        for one in read_out_running(Home.at(home), names):
            found.append(one)
    finally:
        _tell(found)
    return ReadOuts(found)


def _tell(found: Sequence[ReadOut]) -> None:
    """Tell people of what they want to know, and show all of it on Prefect's page."""
    for one in found:
        if one.decision.action in TOLD or one.asks:
            notify(
                "experiment", f"{one.stored.name}: {one.decision.reason}",
                action=one.decision.action, state=one.stored.state,
            )  # fmt: skip
    if found:
        lines = ["| experiment | action | reason |", "| --- | --- | --- |"]
        lines += [
            f"| {one.stored.name} | {one.decision.action} | {one.decision.reason} |"
            for one in found
        ]
        create_markdown_artifact("\n".join(lines), key="experiment-readout")
