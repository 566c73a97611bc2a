"""Clients that ask a gateway without a pause, and what they were told."""

import threading
import time
from dataclasses import dataclass

import requests

CLIENTS = 8


@dataclass
class Answered:
    """One answer: when it was asked, how long it took, and what it says."""

    asked: float
    seconds: float
    status: int
    version: str = ""
    degraded: str | None = None


class Load:
    """Clients that ask again as soon as they are answered; a context manager."""

    def __init__(self, url, users=tuple(f"u{number:04d}" for number in range(CLIENTS))):
        self.url = url
        self.answers = []
        self._done = threading.Event()
        self._clients = [threading.Thread(target=self._ask, args=(user,)) for user in users]

    def __enter__(self):
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        for client in self._clients:
            client.join()

    def since(self, moment):
        return [one for one in self.answers if one.asked >= moment]

    def latest(self):
        return self.answers[-1] if self.answers else None

    def _ask(self, user):
        session = requests.Session()
        while not self._done.is_set():
            asked = time.monotonic()
            body = {"user_id": user, "k": 10}
            try:
                answer = session.post(f"{self.url}/v1/recommendations", json=body, timeout=30)
            except requests.RequestException:
                self.answers.append(Answered(asked, time.monotonic() - asked, 0))
                continue
            found = answer.json()
            self.answers.append(
                Answered(
                    asked, time.monotonic() - asked, answer.status_code,
                    found.get("model_version", ""), found.get("degraded"),
                )
            )  # fmt: skip


def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def report(name, answers):
    times = sorted(one.seconds for one in answers)
    print(
        f"{name}: {len(times)} answers, p50 {1000 * times[len(times) // 2]:.0f} ms, "
        f"longest {1000 * times[-1]:.0f} ms, "
        f"{sum(one.degraded is not None for one in answers)} degraded"
    )
