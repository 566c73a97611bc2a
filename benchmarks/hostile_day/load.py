"""Clients who ask and click all day, each at its own pace, and note what they are told."""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import requests

from benchmarks.hostile_day.journal import Journal, Request, Sent

ASKING, ASKS_A_SECOND = 3, 3.0
"""Clients that ask, and how often each does."""
BATCH, BATCHES_A_SECOND = 10, 2.0
"""Events of one request, and how often some are sent."""
PATIENCE_SECONDS = 10
"""After which a client takes a request for lost."""
AGAIN_SECONDS = 0.5
"""After which a sender sends again what was not acknowledged."""
GIVEN_UP = 0.1
"""Share of the batches that failed which nobody sends again: they may be in the log or not."""
VISITORS = 0.1
"""Share of requests of nobody known, who brings recent items."""
IMPRESSIONS = 0.1
"""Share of events that are no clicks."""
NEW_USERS = 20
"""Who come for the first time on this day."""


class Load:
    """The clients; a context manager inside which they are at it."""

    def __init__(
        self, url: str, users: Sequence[str], items: Sequence[str], journal: Journal, seed: int
    ) -> None:
        """Say whom to ask, about whom, and with which chance; nobody begins yet."""
        self.url, self.items, self.journal, self.seed = url, list(items), journal, seed
        self.users = [*users, *(f"new{number:03d}" for number in range(NEW_USERS))]
        self._done = threading.Event()
        work: list[Callable[[], None]] = [self._send]
        work += [functools.partial(self._ask, number) for number in range(ASKING)]
        self._threads = [threading.Thread(target=self._watched, args=(one,)) for one in work]
        self.broken: list[BaseException] = []

    def __enter__(self) -> Load:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for one in self._threads:
            one.join()

    def _watched(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # whoever holds the load is told; nobody waits for a thread
            self.broken.append(error)

    def _ask(self, number: int) -> None:
        rng = random.Random(f"{self.seed} asks {number}")
        with requests.Session() as session:
            for turn in _paced(self._done, 1 / ASKS_A_SECOND):
                user = "" if rng.random() < VISITORS else rng.choice(self.users)
                recent = rng.sample(self.items, 3)
                self.journal.note(
                    ask(session, self.url, f"day-{self.seed}-{number}-{turn}", user, recent)
                )

    def _send(self) -> None:
        rng = random.Random(f"{self.seed} sends")
        with requests.Session() as session:
            for turn in _paced(self._done, 1 / BATCHES_A_SECOND):
                events = self._events(rng, turn)
                gives_up = rng.random() < GIVEN_UP
                while not send(session, self.url, events, self.journal):
                    if gives_up or self._done.wait(AGAIN_SECONDS):
                        break

    def _events(self, rng: random.Random, turn: int) -> list[Sent]:
        now = int(time.time())
        return [
            Sent(
                f"day-{self.seed}-{turn}-{number}", rng.choice(self.users), rng.choice(self.items),
                "impression" if rng.random() < IMPRESSIONS else "click", now - rng.randrange(60),
            )
            for number in range(BATCH)
        ]  # fmt: skip


def ask(
    session: requests.Session, url: str, request_id: str, user: str, recent: Sequence[str] = ()
) -> Request:
    """Ask once; what came of it."""
    body = {"user_id": user, "k": 10} if user else {"recent_items": list(recent), "k": 10}
    begun, started = time.time(), time.monotonic()

    def request(status: int, **values: str) -> Request:
        return Request(
            "recommendations", begun, time.monotonic() - started, status,
            request_id=request_id, user_id=user, **values,
        )  # fmt: skip

    try:
        answer = session.post(
            f"{url}/v1/recommendations", json=body, timeout=PATIENCE_SECONDS,
            headers={"X-Request-Id": request_id},
        )  # fmt: skip
        found = answer.json()
    except (requests.RequestException, ValueError) as error:
        return request(0, problem=_kind(error))
    if answer.status_code != 200:
        return request(answer.status_code, problem=f"{answer.status_code} {found.get('error')}")
    return request(
        200, variant=found["variant"] or "", version=found["model_version"],
        run_id=found["run_id"], degraded=found["degraded"] or "", served_by=found["served_by"],
    )  # fmt: skip


def send(
    session: requests.Session, url: str, events: Sequence[Sent], journal: Journal,
    on_answer: Callable[[dict[str, object]], None] = lambda answer: None,
) -> bool:  # fmt: skip
    """Send events once and note their fate; whether they were acknowledged.

    Events that may be sent again count as given up until they are acknowledged.
    """
    begun, started = time.time(), time.monotonic()
    status, problem = 0, ""
    try:
        answer = session.post(
            f"{url}/v1/events", json={"events": [one.to_json() for one in events]},
            timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        status, found = answer.status_code, answer.json()
    except (requests.RequestException, ValueError) as error:
        status, problem = 0, _kind(error)
    else:
        on_answer(found)
        if status != 200:
            problem = f"{status} {found.get('error')}"
    refused = status in (400, 413, 415, 422)
    journal.sent(events, "acknowledged" if status == 200 else "refused" if refused else "given up")
    if not refused:  # what is refused was sent to be
        journal.note(Request("events", begun, time.monotonic() - started, status, problem))
    return status == 200


def _paced(done: threading.Event, seconds: float) -> Iterator[int]:
    """Count turns that begin at a pace, or later where one takes longer, until told to stop."""
    turn, due = 0, time.monotonic()
    while not done.wait(max(0.0, due - time.monotonic())):
        yield turn
        turn, due = turn + 1, max(due + seconds, time.monotonic() - 1)


def _kind(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        cause = str(error)
        return "connection refused" if "refused" in cause else "connection lost"
    return type(error).__name__
