"""A deployed schedule left alone: validate, publish, monitor; then people change their ways.

    python benchmarks/unattended.py [--home DIR] [--minutes 40]

Makes a small world and trains on the first part of every user's history. `hymirec up` then runs the
schedules of prefect.yaml, shortened to minutes. The rest of the histories comes in through the
gateway as clicks, then clicks of another kind: everybody walks through the whole catalogue in one
new order. Nothing else is done but to look: monitoring has to stay quiet over the first and to
notice the second, start a retrain, and the gate has to let its version through. Prints one JSON
object: flow runs, what the webhook was told, the series of each version, and who was champion when.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import requests
import yaml

from hymirec.datasets.canonical import write_frame
from hymirec.datasets.synthetic import WorldConfig, generate
from hymirec.home import Home

HYMIREC = Path(sys.executable).parent / "hymirec"
REPOSITORY = Path(__file__).resolve().parent.parent
EVERY_SECONDS = {"validate": 180, "publish-features": 180, "monitor": 60}
"""In place of hours and ten minutes."""
TRAINED_SHARE = 0.75
WALK = 30
"""Clicks of each user in the new order."""
EVENTS_AT_ONCE = 200
QUIET_LOOKS = 2


def main() -> None:
    """Set it up, look on, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--home", type=Path, help="to keep; a temporary one by default")
    parser.add_argument("--minutes", type=float, default=40, help="after which it is given up")
    arguments = parser.parse_args()
    for sign in (signal.SIGINT, signal.SIGTERM):  # what was started is stopped on the way out
        signal.signal(sign, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as scratch:
        home = Home.at(arguments.home or Path(scratch) / "home").create()
        run = Run(home, time.monotonic() + 60 * arguments.minutes)
        with run.receiver() as told:
            try:
                found = run.through(told)
            finally:
                hymirec("down", "--home", home.root)
        print(json.dumps(found | {"told": [one["event"] for one in told]}))


class Run:
    """One home, left alone."""

    def __init__(self, home: Home, deadline: float) -> None:
        """Make the world; nothing runs yet."""
        self.home = home
        self.deadline = deadline
        self.world = generate(WorldConfig.tiny())
        self.prefect_port, self.mlflow_port, self.gateway_port = _free_ports(3)
        self.webhook = ""
        self.champions: list[dict[str, Any]] = []

    def through(self, told: list[dict[str, Any]]) -> dict[str, Any]:
        """From nothing to a second champion; what was seen on the way."""
        data, later = self._split()
        hymirec("pipeline", "--data", data, "--recipe", "tiny", "--home", self.home.root)
        self._shorten()
        hymirec(
            "up", "--home", self.home.root, "--data", data, "--recipe", "tiny",
            "--deployments", self.home.root / "prefect.yaml", "--webhook", self.webhook,
            "--prefect-port", self.prefect_port, "--mlflow-port", self.mlflow_port,
            "--gateway-port", self.gateway_port,
        )  # fmt: skip
        say("everything is up; the rest of the histories comes in")
        self._click(later)
        self._until("two looks at clicks of the old kind", lambda: self._judged() >= QUIET_LOOKS)
        quiet = [run for run in self._runs("retrain") if run["deployment_id"]]
        say("drift: everybody takes items in a new order")
        self._click(self._drifted())
        self._until("a retrain", lambda: self._ended("retrain"))
        self._until("another champion", lambda: self._champion() != 1, seconds=60)
        self._until("its answers", lambda: self._answering() == self._champion(), seconds=240)
        looks = self._ended("monitor")
        self._until("a look at it", lambda: self._ended("monitor") > looks)
        return {
            "retrains_while_quiet": len(quiet),
            "flow_runs": {name: self._states(name) for name in (*EVERY_SECONDS, "retrain")},
            "champions": self.champions,
            "champion": self._champion(),
            "answering": self._answering(),
            "series": self._series(),
        }

    def receiver(self) -> Receiver:
        """An address for the webhook."""
        return Receiver(self)

    def _split(self) -> tuple[Path, list[dict[str, Any]]]:
        """A folder with the first part of every history; the rest as events."""
        data = self.world.dataset
        events = data.interactions
        place = events.groupby("user_id").cumcount()
        early = place < TRAINED_SHARE * events.groupby("user_id")["item_id"].transform("size")
        directory = self.home.root / "world"
        write_frame(events[early].drop(columns="source_row"), directory / "interactions.parquet")
        write_frame(data.items.drop(columns="source_row"), directory / "items.parquet")
        later = [
            event(f"later-{number}", row.user_id, row.item_id, row.timestamp.isoformat())
            for number, row in enumerate(events[~early].itertuples())
        ]
        return directory, later

    def _drifted(self) -> list[dict[str, Any]]:
        """Everybody walks through the catalogue in a new order, from somewhere on."""
        rng = np.random.default_rng(0)
        pool = rng.permutation(self.world.dataset.items["item_id"]).tolist()
        users = self.world.dataset.interactions["user_id"].unique()
        start = time.time() - WALK - 60
        return [
            event(f"drift-{user}-{step}", user, pool[(first + step) % len(pool)],
                  time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start + step)))
            for user, first in zip(users, rng.integers(0, len(pool), len(users)), strict=True)
            for step in range(WALK)
        ]  # fmt: skip

    def _shorten(self) -> None:
        deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
        for one in deployments["deployments"]:
            seconds = EVERY_SECONDS.get(one["name"])
            one["schedules"] = [{"interval": seconds}] if seconds else []
        (self.home.root / "prefect.yaml").write_text(yaml.safe_dump(deployments))

    def _click(self, events: list[dict[str, Any]]) -> None:
        url = f"http://127.0.0.1:{self.gateway_port}/v1/events"
        for first in range(0, len(events), EVENTS_AT_ONCE):
            part = events[first : first + EVENTS_AT_ONCE]
            requests.post(url, json={"events": part}, timeout=60).raise_for_status()
        say(f"{len(events)} clicks taken")

    def _until(self, what: str, reached: Callable[[], Any], seconds: float = 1e9) -> None:
        """Wait, noting who is champion."""
        deadline = min(self.deadline, time.monotonic() + seconds)
        while not reached():
            number = self._champion()
            if not self.champions or self.champions[-1]["version"] != number:
                self.champions.append({"version": number, "seen_at": time.strftime("%H:%M:%S")})
            if time.monotonic() > deadline:
                raise SystemExit(f"no sign of {what}: {json.dumps(self._summary())}")
            time.sleep(5)
        say(f"{what}: seen")

    def _summary(self) -> dict[str, Any]:
        names = (*EVERY_SECONDS, "retrain")
        return {name: self._states(name) for name in names} | {"series": self._series()}

    def _runs(self, name: str) -> list[dict[str, Any]]:
        asked = {"flows": {"name": {"any_": [name]}}, "sort": "EXPECTED_START_TIME_ASC"}
        url = f"http://127.0.0.1:{self.prefect_port}/api/flow_runs/filter"
        return [
            run for run in requests.post(url, json=asked, timeout=60).json()
            if run["state_type"] != "SCHEDULED"
        ]  # fmt: skip

    def _states(self, name: str) -> dict[str, int]:
        return dict(Counter(run["state_name"] for run in self._runs(name)))

    def _ended(self, name: str) -> int:
        return sum(
            run["state_type"] in ("COMPLETED", "FAILED", "CRASHED") for run in self._runs(name)
        )

    def _client(self) -> Any:
        import mlflow

        return mlflow.MlflowClient(self.home.mlflow_uri, self.home.mlflow_uri)

    def _champion(self) -> int:
        return int(self._client().get_model_version_by_alias("hymirec", "champion").version)

    def _answering(self) -> int:
        user = self.world.dataset.interactions["user_id"].iloc[0]
        url = f"http://127.0.0.1:{self.gateway_port}/v1/recommendations"
        answer = requests.post(url, json={"user_id": user}, timeout=60)
        return int(answer.json()["model_version"]) if answer.ok else 0

    def _judged(self) -> int:
        return max(
            (len(one.get("served/hit_rate", [])) for one in self._series().values()), default=0
        )

    def _series(self) -> dict[str, dict[str, list[float]]]:
        """Values by version and metric, those that a threshold is on."""
        client = self._client()
        experiment = client.get_experiment_by_name("hymirec-monitoring")
        if experiment is None:
            return {}
        wanted = ("data/popularity_psi", "embedding/axis_ks", "served/hit_rate",
                  "served/hit_rate_ratio")  # fmt: skip
        return {
            run.data.tags["monitored_version"]: {
                name: [
                    round(point.value, 3)
                    for point in client.get_metric_history(run.info.run_id, name)
                ]
                for name in wanted
                if name in run.data.metrics
            }
            for run in client.search_runs([experiment.experiment_id])
        }


class Receiver:
    """Takes what the webhook is told."""

    def __init__(self, run: Run) -> None:
        """Take a free port."""
        self.told: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                say(f"told: {body['text']}")
                receiver.told.append(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        run.webhook = f"http://127.0.0.1:{self.server.server_port}/"

    def __enter__(self) -> list[dict[str, Any]]:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self.told

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()


def event(event_id: str, user: str, item: str, moment: str) -> dict[str, Any]:
    """A click as the gateway takes it."""
    return {"event_id": event_id, "user_id": user, "item_id": item, "kind": "click", "time": moment}


def hymirec(*arguments: object) -> None:
    """Run a command; what it says goes to standard error."""
    done = subprocess.run(
        [str(HYMIREC), *map(str, arguments)], stdout=sys.stderr, env=os.environ.copy()
    )
    if done.returncode:
        raise SystemExit(f"hymirec {arguments[0]} ended with {done.returncode}")


def say(what: str) -> None:
    """Tell how far it has come."""
    print(time.strftime("%H:%M:%S"), what, file=sys.stderr, flush=True)


def _free_ports(count: int) -> Iterator[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    yield from ports


if __name__ == "__main__":
    main()
