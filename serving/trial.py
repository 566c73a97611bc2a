"""Versions tried on this machine before one of them answers: real model servers, real requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import psutil

from hymirec.errors import HymirecError
from hymirec.home import Home
from serving.client import ask
from serving.server import LOOPBACK, ModelServer

K = 10
STRANGER = "nobody has this id 0b5e"
MAX_PROBLEMS = 5
SECONDS_BETWEEN_LOOKS = 0.1
_MB = 1024 * 1024


@dataclass
class Tried:
    """How one version's server did.

    Attributes:
        start_seconds: until it answered.
        latencies_ms: of each request, as its client saw it.
        memory_mb: of the process that answers, after that.
        problems: what was wrong, a line each, the first few; one that does not start says why.
    """

    start_seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    memory_mb: float = 0.0
    problems: list[str] = field(default_factory=list)


class Trial:
    """Model servers of several versions side by side; a context manager that stops them."""

    def __init__(self, home: Home, name: str, versions: Sequence[int]) -> None:
        """Name the versions; nothing starts yet."""
        self._servers = [
            ModelServer(home, name, version, host=LOOPBACK, port=0) for version in versions
        ]
        self._pool = ThreadPoolExecutor(len(versions))
        self._started: list[Future[float]] = []

    def __enter__(self) -> Self:
        """Begin to start the servers, all at once, and do not wait for them."""
        self._started = [self._pool.submit(_start, server) for server in self._servers]
        return self

    def measure(self, users: Sequence[str], num_requests: int) -> list[Tried]:
        """Wait for the servers and ask them in turns, so that a busy machine slows all alike.

        Args:
            users: who have histories.
            num_requests: to each server.

        Returns:
            One for each version, in their order.
        """
        tried, up = [], []
        for server, started in zip(self._servers, self._started, strict=True):
            one = Tried()
            try:
                one.start_seconds = started.result()
            except HymirecError as error:
                one.problems.append(str(error))
            else:
                one.problems += _answer_to_a_stranger(server)
                up.append((server, one))
            tried.append(one)
        for number in range(num_requests):
            # Whoever is first of two alternates, too.
            for server, one in up if number % 2 else reversed(up):
                _ask(server, users[number % len(users)], one)
        for server, one in up:
            one.memory_mb = _memory_mb(server)
        return tried

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        """Stop the servers, those still starting too."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        starting = {one for one in self._started if not one.cancelled()}  # `wait` would for ever
        while True:  # one whose process is only being made cannot be stopped yet
            for server in self._servers:
                server.stop()
            if not starting:
                return
            _, starting = wait(starting, SECONDS_BETWEEN_LOOKS)


def _start(server: ModelServer) -> float:
    started = time.monotonic()
    server.start()
    return time.monotonic() - started


def _ask(server: ModelServer, user: str, tried: Tried) -> None:
    started = time.perf_counter()
    try:
        answer = ask(server.url, user, K)
    except HymirecError as error:
        _note(tried, f"user {user}: {error}")
        return
    tried.latencies_ms.append(1000 * (time.perf_counter() - started))
    listed = [item["item_id"] for item in answer["recommendations"]]
    if answer["model_version"] != str(server.version):
        _note(tried, f"user {user}: answered by version {answer['model_version'] or 'none'}")
    if answer["served_by"] != "full":
        _note(tried, f"user {user}: served by {answer['served_by']}, not from the history")
    if not listed or len(set(listed)) < len(listed):
        _note(tried, f"user {user}: {len(set(listed))} different items of {len(listed)}")


def _answer_to_a_stranger(server: ModelServer) -> list[str]:
    try:
        answer = ask(server.url, STRANGER, K)
    except HymirecError as error:
        return [f"somebody unknown: {error}"]
    if answer["served_by"] != "popular" or not answer["recommendations"]:
        return [f"somebody unknown: served by {answer['served_by']}"]
    return []


def _note(tried: Tried, problem: str) -> None:
    if len(tried.problems) < MAX_PROBLEMS:
        tried.problems.append(problem)


def _memory_mb(server: ModelServer) -> float:
    """Resident memory of the largest process of a server: the one that holds the model."""
    try:
        first = psutil.Process(server.pid)
        found = [first, *first.children(recursive=True)]
        return max(one.memory_info().rss for one in found) / _MB
    except psutil.Error:  # it has ended meanwhile
        return float("nan")
