"""How long after its acknowledgement a click is in the user's next answer.

    hymirec serve &
    python benchmarks/freshness.py --url http://127.0.0.1:5055 --users u0001,u0002,… [--clicks 60]

Each click is on the item recommended first; the user is then asked for again until the history
named in the answer has changed, so that the time of at least one request is in every figure.
Prints one JSON object, milliseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import uuid

import requests


def main() -> None:
    """Click, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:5055")
    parser.add_argument("--users", required=True, help="ids with commas between")
    parser.add_argument("--clicks", type=int, default=60)
    arguments = parser.parse_args()
    users = arguments.users.split(",")
    requests_made, seen_after = [], []
    with requests.Session() as session:

        def ask(user: str) -> dict:
            started = time.perf_counter()
            asked = {"user_id": user, "explain": True}
            answer = session.post(f"{arguments.url}/v1/recommendations", json=asked)
            answer.raise_for_status()
            requests_made.append(1000 * (time.perf_counter() - started))
            return answer.json()

        for number in range(arguments.clicks):
            user = users[number % len(users)]
            before = ask(user)
            event = {
                "event_id": uuid.uuid4().hex, "user_id": user, "kind": "click",
                "item_id": before["recommendations"][0]["item_id"],
            }  # fmt: skip
            session.post(f"{arguments.url}/v1/events", json={"events": [event]}).raise_for_status()
            acknowledged = time.perf_counter()
            while ask(user)["recent"] == before["recent"]:
                pass
            seen_after.append(1000 * (time.perf_counter() - acknowledged))
    print(
        json.dumps(
            {
                "clicks": arguments.clicks,
                "seen_after_p50_ms": round(statistics.median(seen_after), 1),
                "seen_after_max_ms": round(max(seen_after), 1),
                "request_p50_ms": round(statistics.median(requests_made), 1),
            }
        )
    )


if __name__ == "__main__":
    main()
