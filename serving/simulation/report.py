"""What came of a simulation, beside what is true."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from features.logs.event_log import EventLog
from features.logs.exposures import ExposureLog
from features.logs.outcomes import events_of, outcomes
from features.logs.standing import StoredExperiment
from hymirec.abtest.analysis import estimate
from hymirec.abtest.assignment import place
from hymirec.abtest.metrics import METRICS
from hymirec.simulation.recommender import SimulatedRecommender
from hymirec.simulation.scenarios import CONTROL, LIST_LENGTH, NAME, TREATMENT
from serving.simulation.run import Simulation

LOOKS = 10
"""At each experiment between users that were not treated differently."""
VERDICTS = {"concluded": "ramped", "rolled_back": "rolled_back", "paused": "paused"}


def report(simulation: Simulation, stored: StoredExperiment) -> dict[str, Any]:
    """Everything worth knowing, as JSON values."""
    scenario, crowd, seen = simulation.scenario, simulation.crowd, simulation.seen
    worth = [
        SimulatedRecommender(crowd, skill).true_worth(LIST_LENGTH)
        for skill in (scenario.champion, scenario.challenger)
    ]
    last = simulation.readings[-1]["readout"]
    challenged = _challenged(simulation)
    at_full_exposure = len(crowd.user_ids) * stored.experiment.weights[1]
    return {
        "verdict": VERDICTS.get(stored.state, "held"),
        "reason": stored.reason,
        "users": sum(last["exposed"]["counts"].values()),
        "users_when_sure": _users_when_sure(simulation.readings),
        "true_lift": worth[1] / worth[0] - 1,
        **_found(last),
        "days": round(len(simulation.readings) / 2, 1),
        "share": stored.experiment.ramp[stored.step].share,
        "champion": simulation.champion,
        "challenged_users": challenged,
        "challenged_of_full_exposure": challenged / at_full_exposure,
        "lists": seen.lists,
        "lost_exposures": _lost(simulation),
        "moved_users": sum(len(variants) > 1 for variants in seen.variants.values()),
        "decisions": [
            {"action": one["action"], "reason": one["reason"]}
            for one in simulation.readings
            if one["action"] != "hold"
        ],
    }


def false_alarms(simulation: Simulation, experiments: int) -> dict[str, Any]:
    """Split the same users anew and again, and look at what is no difference.

    Both halves were treated alike, whatever they were shown, so each experiment that finds
    something at any of its looks is a false alarm.
    """
    log, exposures = EventLog(simulation.home), ExposureLog(simulation.home)
    rows = exposures.of_experiment(NAME)
    started = float(rows["time"].min())
    users = sorted(set(rows["user_id"]))
    events = events_of(log, users, started)
    log.close()
    exposures.close()
    experiment = simulation.scenario.experiment("ab")
    metric = METRICS[experiment.primary]
    first_half = pd.DataFrame(
        {n: [place(user, f"again:{n}:") < 0.5 for user in users] for n in range(experiments)},
        index=users,
    )
    alarms = np.zeros(experiments, dtype=bool)
    for moment in np.quantile(rows["time"], np.arange(1, LOOKS + 1) / LOOKS):
        seen = outcomes(
            experiment, rows[rows["time"] <= moment].assign(variant=CONTROL),
            events[events["time"] <= moment + 3600], started=started,
        ).users  # fmt: skip
        halves = first_half.loc[seen["user_id"]].to_numpy()
        for number in range(experiments):
            first = halves[:, number]
            found = estimate(
                seen[first], seen[~first], metric, TREATMENT, alpha=experiment.alpha,
                planned=experiment.planned_users,
            )  # fmt: skip
            if found is not None:
                low, high = found.interval
                alarms[number] |= low is not None and high is not None and not low <= 0 <= high
    return {
        "experiments": experiments,
        "looks": LOOKS,
        "false_alarms": int(alarms.sum()),
        "false_alarm_rate": float(alarms.mean()),
        "nominal_rate": experiment.alpha,
    }


def _challenged(simulation: Simulation) -> int:
    """Users who were answered by the challenger, or whom it failed."""
    exposures = ExposureLog(simulation.home)
    rows = exposures.of_experiment(NAME)
    exposures.close()
    return int(rows.loc[rows["variant"] == TREATMENT, "user_id"].nunique())


def _found(readout: dict[str, Any]) -> dict[str, Any]:
    if readout["preference"]:
        found = readout["preference"]
        return {"estimate": found["preference"], "interval": found["interval"]}
    if readout["primary"]:
        found = readout["primary"][0]
        return {"estimate": found["lift"], "interval": found["lift_interval"]}
    return {"estimate": None, "interval": [None, None]}


def _users_when_sure(readings: list[dict[str, Any]]) -> int | None:
    """Users exposed when an interval first left 0 out for good; None of no such time."""
    when = None
    for one in readings:
        interval = _found(one["readout"])["interval"]
        low, high = interval
        if low is None or high is None or low <= 0 <= high:
            when = None
        elif when is None:
            when = sum(one["readout"]["exposed"]["counts"].values())
    return when


def _lost(simulation: Simulation) -> int:
    """Answers of the experiment that have no row in the exposure log."""
    exposures = ExposureLog(simulation.home)
    rows = exposures.of_experiment(NAME)
    exposures.close()
    there = set(zip(rows["request_id"], rows["user_id"], strict=True))
    return len(set(simulation.seen.answered) - there)
