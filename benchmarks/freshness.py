"""How long after its acknowledgement a click is in the user's next answer.

    python benchmarks/freshness.py [--quick] [--clicks 60]
    python benchmarks/freshness.py --url http://127.0.0.1:5055 --users u0001,u0002,…

Without `--url` a home with an untrained model is made and served, on SQLite. Each click is on the
item recommended first; the user is then asked for again until the history named in the answer has
changed, so that the time of at least one request is in every figure. Prints one JSON object,
milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

import requests

# `serving` is the package, not the script beside this one.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.served_home import gateway, make_home, users_of_length
from hymirec.home import Home


def measure(url: str, users: list[str], clicks: int) -> dict[str, float]:
    """Click, ask until it is known, one user after the other."""
    requests_made, seen_after = [], []
    with requests.Session() as session:

        def ask(user: str) -> dict:
            started = time.perf_counter()
            asked = {"user_id": user, "explain": True}
            answer = session.post(f"{url}/v1/recommendations", json=asked)
            answer.raise_for_status()
            requests_made.append(1000 * (time.perf_counter() - started))
            return answer.json()

        for number in range(clicks):
            user = users[number % len(users)]
            before = ask(user)
            event = {
                "event_id": uuid.uuid4().hex, "user_id": user, "kind": "click",
                "item_id": before["recommendations"][0]["item_id"],
            }  # fmt: skip
            session.post(f"{url}/v1/events", json={"events": [event]}).raise_for_status()
            acknowledged = time.perf_counter()
            while ask(user)["recent"] == before["recent"]:
                pass
            seen_after.append(1000 * (time.perf_counter() - acknowledged))
    return {
        "clicks": clicks,
        "seen_after_p50_ms": round(statistics.median(seen_after), 1),
        "seen_after_max_ms": round(max(seen_after), 1),
        "request_p50_ms": round(statistics.median(requests_made), 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="twenty clicks")
    parser.add_argument("--clicks", type=int, default=60)
    parser.add_argument("--url", help="of a running gateway; one of its own without")
    parser.add_argument("--users", help="of that gateway, ids with commas between")
    arguments = parser.parse_args()
    if bool(arguments.url) != bool(arguments.users):
        parser.error("--url and --users go together")
    clicks = 20 if arguments.quick else arguments.clicks
    if arguments.url:
        print(json.dumps(measure(arguments.url, arguments.users.split(","), clicks)))
        return
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with tempfile.TemporaryDirectory() as directory:
        home = Home.at(directory)
        make_home(home)
        with gateway(home) as url:
            print(json.dumps(measure(url, users_of_length(50), clicks)))


if __name__ == "__main__":
    main()
