"""What experiments cost: an answer, and a readout.

    python benchmarks/experiments.py [--quick] [--json]

Prints one JSON object, times in milliseconds. `request`: assigning a user among three running
experiments in three layers and journalling the exposure of ten items, on a home of its own with the
thread that fills the database at work; `cpu` is processor time of the calls, `wall` what passed,
each the median and the 99th percentile of single calls. `readout`: from the logs to a decision, for
so many users with two lists each; with `--quick` for fewer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A script's folder comes first in the search, and there this file would hide the package.
sys.path = [place for place in sys.path if Path(place).resolve() != Path(__file__).parent]

import numpy as np

from features.logs.event_log import Event, EventLog
from features.logs.experiments import ExperimentStore
from features.logs.exposures import Exposure, ExposureLog
from features.logs.readouts import ReadoutMaker
from features.logs.standing import StoredExperiment
from hymirec.abtest.decisions import decide
from hymirec.abtest.definition import Experiment
from hymirec.home import Home
from hymirec.query import Query
from serving.experiments import ExperimentRollout
from serving.rollout import Answered

ITEMS = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="is what is printed anyway")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as place:
        home = Home.at(place).create()
        found = {"request": asyncio.run(measure_requests(home, 2000 if quick else 20_000))}
        found["readout"] = measure_readout(home, 2000 if quick else 50_000)
    print(json.dumps(found))


def begin(
    home: Home, name: str, layer: str, version: int, settings: dict[str, Any]
) -> StoredExperiment:
    """Start an experiment at all of its layer's traffic."""
    experiment = Experiment.model_validate(
        {
            "name": name, "hypothesis": "none", "owner": "benchmark",
            "variants": [{"name": "control", "model": 1},
                         {"name": "new", "model": version, "settings": settings}],
            "traffic": {"layer": layer}, "horizon": {"days": 7},
            "guardrails": [{"metric": "error_rate", "absolute": 0.01},
                           {"metric": "latency_ms", "relative": 0.5}],
            "ramp": [{"share": 1.0, "min_users": 100}],
        }
    )  # fmt: skip
    store = ExperimentStore(home)
    store.create(experiment)
    return store.start(name, {"control": 1, "new": version})


async def measure_requests(home: Home, count: int) -> dict[str, Any]:
    """Time what the gateway does for experiments in one request."""
    begin(home, "versions", "ranking", 2, {})
    begin(home, "diversity", "page", 1, {"diversity": 0.3})
    begin(home, "reasons", "mail", 1, {"explain": True})
    items = [{"item_id": f"item-{n:06}", "interest": n % 3} for n in range(ITEMS)]
    answer = {
        "degraded": None, "model_version": "1", "codebook_id": "0123456789ab",
        "feature_age_seconds": 60.0, "served_by": "full", "recommendations": items,
    }  # fmt: skip
    query = Query()
    cpu, wall = np.empty(count), np.empty(count)
    with ExperimentRollout(home) as rollout:
        for number in range(count):
            user = f"user-{number:08}"
            before = time.thread_time(), time.perf_counter()
            route = rollout.route(user, query, {})
            await rollout.on_answer(
                Answered(f"request-{number}", user, query, route, answer, seconds=0.01)
            )
            cpu[number] = time.thread_time() - before[0]
            wall[number] = time.perf_counter() - before[1]
            await asyncio.sleep(0.0005)  # as requests come
    return {"cpu": _spread(cpu), "wall": _spread(wall), "requests": count}


def measure_readout(home: Home, users: int) -> dict[str, Any]:
    """Time a readout of planted users."""
    stored = begin(home, "read-out", "other", 1, {"exclude_seen": False})
    split = stored.experiment.split(1.0)
    rng = np.random.default_rng(0)
    rows, events, now = [], [], time.time()
    for number in range(users):
        user = f"user-{number:08}"
        assigned = split.assign(user)
        assert assigned is not None
        for look in range(2):
            shown = [f"item-{n:06}" for n in rng.integers(0, 100_000, ITEMS)]
            row = Exposure(
                request_id=f"{user}-{look}", time=now + look, experiment=stored.name, user_id=user,
                variant=assigned.variant, mode="ab", model_version="1", codebook_id="abc",
                feature_age_seconds=1.0, served_by="full", degraded="", error="",
                is_fallback=False, is_override=False, propensity=0.5, latency_ms=10.0,
                items=shown, interests=[1] * ITEMS,
            )  # fmt: skip
            rows.append(vars(row) | {"exposure_id": row.request_id, "kind": "Exposure"})
            if rng.random() < 0.5:
                events.append(Event(row.request_id, user, shown[0], "click", int(now)))
    for start in range(0, len(rows), 10_000):
        ExposureLog(home).append(rows[start : start + 10_000])
        EventLog(home).append(events[start : start + 10_000])
    maker = ReadoutMaker(home)
    seconds = _timed(lambda: decide(stored.experiment, stored.progress, maker.read(stored)))
    return {"users": users, "lists": len(rows), "ms": 1000 * seconds}


def _timed(work: Callable[[], object]) -> float:
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _spread(seconds: np.ndarray) -> dict[str, float]:
    median, high = np.percentile(1000 * seconds, [50, 99])
    return {"p50": round(float(median), 4), "p99": round(float(high), 4)}


if __name__ == "__main__":
    main()
