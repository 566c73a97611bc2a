"""A hostile day: everything at once, and what kills it, one thing after the other.

    python benchmarks/chaos.py [--minutes 10] [--seed 0] [--quick] [--keep DIR]

Makes a home with the tiny world and two trained versions, on a Redis and a PostgreSQL of its own,
and starts all that `hymirec up` does, with schedules of minutes and an experiment between the two.
While clients ask for recommendations and send events it kills processes, stops stores, fills the
disk of the home, skews clocks, damages artifacts, breaks the connection to the registries and
replays old events: by a schedule that a seed decides and that is printed first. Afterwards what the
clients have kept is held against the logs, the feature rows and the answers.

Prints a report to standard error, a line for each injury and each promise, green or red; then one
JSON object. The exit status is 1 if any line is red. `--quick` is two minutes without Prefect and
MLflow's server; setting up takes three to five minutes more. Needs redis-server and PostgreSQL.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

# `features` is the package, not the script beside this one.
sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(
    [sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])]
)

from benchmarks.hostile_day import report
from benchmarks.hostile_day.day import Day, plan
from benchmarks.hostile_day.evidence import gather
from benchmarks.hostile_day.injuries import INJURIES
from benchmarks.hostile_day.journal import Journal
from benchmarks.hostile_day.load import Load
from benchmarks.hostile_day.stage import Stage, say

QUICK_MINUTES = 2.0
MOST_PATIENCE = 6.0
"""Times a limit, where others work on the same cores."""


def main() -> None:
    """Set it up, break it, look at what is left."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="of load and injuries, at least")
    parser.add_argument("--seed", type=int, default=0, help="of schedule, choices and clients")
    parser.add_argument("--quick", action="store_true", help="two minutes, serving alone")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="of injuries")
    parser.add_argument("--keep", type=Path, help="an empty folder to leave logs and report in")
    arguments = parser.parse_args()
    known = [one.name for one in INJURIES]
    if unknown := sorted(set(arguments.only) - set(known)):
        named = ", ".join(map(repr, unknown))
        parser.error(f"no injury is called {named}; there are {', '.join(known)}")
    for sign in (signal.SIGINT, signal.SIGTERM):  # what was started is stopped on the way out
        signal.signal(sign, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="hostile-day") as scratch:
        folder = Path(arguments.keep or scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        sys.exit(0 if live(folder, arguments) else 1)


def live(folder: Path, arguments: argparse.Namespace) -> bool:
    """Go through the whole day; whether every line is green."""
    seconds = 60 * (QUICK_MINUTES if arguments.quick else arguments.minutes)
    injuries = [
        one for one in INJURIES
        if (one.name in arguments.only if arguments.only else one.quick or not arguments.quick)
    ]  # fmt: skip
    rng = random.Random(arguments.seed)
    schedule = plan(injuries, seconds, rng)
    print(report.planned(schedule, seconds, arguments.seed), file=sys.stderr, flush=True)
    with Stage(folder, with_flows=not arguments.quick) as stage:
        journal = Journal()
        world = stage.world.dataset
        load = Load(
            stage.url, world.interactions["user_id"].unique().tolist(),
            world.items["item_id"].tolist(), journal, arguments.seed,
        )  # fmt: skip
        others, cores = os.getloadavg()[0], os.cpu_count() or 1
        day = Day(stage, load, journal, rng, patience=min(MOST_PATIENCE, max(1.0, others / cores)))
        day.settle()
        notes = [
            f"disk: {stage.disk.how}",
            f"load of the machine before: {others:.1f} on {cores} cores; "
            f"limits are {day.patience:.1f} times those of a machine of its own",
        ]
        say("the day begins")
        began = time.time()
        with load:
            day.run(schedule, seconds)
        lasted = time.time() - began
        notes.append(f"and at the end: {os.getloadavg()[0]:.1f}")
        say("the day is over; consumers catch up, then all of it is counted")
        stage.until("no event waits", lambda: stage.waiting_events() == 0, 120)
        stage.end()
        found = gather(stage, journal, [one.window for one in day.outcomes])
    text = report.report(day.outcomes, journal, found, began, notes)
    print(text, file=sys.stderr)
    values = report.result(day.outcomes, journal, found, lasted, arguments.seed)
    if arguments.keep:
        (folder / "report.txt").write_text(text + "\n")
        (folder / "result.json").write_text(json.dumps(values, indent=1) + "\n")
    print(json.dumps(values))
    return bool(values["green"])


if __name__ == "__main__":
    main()
