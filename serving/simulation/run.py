"""The course of a simulation: users come, are answered, click; readouts decide.

Time is simulated: the calendar of experiments, exposures and events is this one's, which begins in
the past and ends before now, so that two weeks take a minute. All else is what production runs.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray

from features.logs.experiments import ExperimentStore
from features.logs.standing import StoredExperiment
from hymirec.abtest.assignment import place
from hymirec.abtest.definition import Mode
from hymirec.errors import HymirecError
from hymirec.home import Home
from hymirec.query import Query
from hymirec.simulation.crowd import Crowd
from hymirec.simulation.scenarios import (
    CONTROL,
    LIST_LENGTH,
    NAME,
    RETURNS,
    STEP_HOURS,
    TREATMENT,
    Scenario,
)
from serving.experiments import ExperimentRollout
from serving.fleet import Fleet
from serving.gateway import create_app
from serving.registry import Registry
from serving.rollout import Route
from serving.settings import GatewaySettings

log = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("server.py")
PER_REQUEST = 32
"""Users asked for in one request."""
AT_ONCE = 4
"""Requests under way."""
READY_SECONDS = 120.0
PATIENT_SECONDS = 60.0
LOOK_SECONDS = 0.05

ReadOut = Callable[[str, Callable[[], float]], dict[str, Any]]
"""Reads an experiment out as of a clock, acts, and tells its state, action, reason and readout."""


class Calendar:
    """The simulated time; called, it tells the seconds since 1970 UTC."""

    def __init__(self, days: float) -> None:
        """Begin so many days ago."""
        self.now = time.time() - days * 86_400 - 3600

    def __call__(self) -> float:
        """The time."""
        return self.now

    def advance(self, hours: float) -> None:
        """Let time go by."""
        self.now += hours * 3600


class SkewedRollout(ExperimentRollout):
    """A broken splitter: some of the control's users get what the challenger's get."""

    def __init__(self, home: Home, calendar: Calendar, misrouted: float) -> None:
        """Say how many."""
        super().__init__(home, clock=calendar)
        self._misrouted = misrouted
        self._other = "another-user"

    def route(self, user_id: str | None, query: Query, attributes: Mapping[str, str]) -> Route:
        """As of another user, for some."""
        route = super().route(user_id, query, attributes)
        is_control = route.variant.endswith(f"/{CONTROL}")
        if user_id and is_control and place(user_id, "misrouted:") < self._misrouted:
            for number in itertools.count():
                other = super().route(f"{self._other}-{number}", query, attributes)
                if other.variant.endswith(f"/{TREATMENT}"):
                    return other
        return route


@dataclass
class Seen:
    """What the users saw of it.

    Attributes:
        lists: answered.
        by_version: users by the version that answered them, numbers of versions as text.
        variants: of each user who was in the experiment, all he was ever told.
        answered: ids of requests with the user of each answer that was in the experiment.
    """

    lists: int = 0
    by_version: dict[str, set[str]] = field(default_factory=dict)
    variants: dict[str, set[str]] = field(default_factory=dict)
    answered: list[tuple[str, str]] = field(default_factory=list)


class Simulation:
    """One scenario in one home."""

    def __init__(
        self, home: Home, crowd: Crowd, scenario: Scenario, mode: Mode, *, model: str, alias: str,
        read_out: ReadOut, seed: int = 0, restart_on_day: float | None = None,
        on_step: Callable[[float, dict[str, Any]], None] = lambda day, found: None,
    ) -> None:  # fmt: skip
        """Say what is to happen.

        Args:
            home: where the stage is set (`serving.simulation.stage`), the experiment running.
            crowd: who comes.
            scenario: what is true.
            mode: of the experiment.
            model: name of the registered model.
            alias: whose version is champion.
            read_out: what the schedule would run.
            seed: of who comes when and clicks what.
            restart_on_day: when all processes are ended and started again.
            on_step: told the day and what was read out.
        """
        self.home, self.crowd, self.scenario, self.mode = home, crowd, scenario, mode
        self.calendar = Calendar(scenario.days)
        self.seen = Seen()
        self.readings: list[dict[str, Any]] = []
        self.champion = ""
        self._model, self._alias, self._read_out = model, alias, read_out
        self._rng = np.random.default_rng(seed)
        self._restart_on_day = restart_on_day
        self._on_step = on_step
        self._numbers = {user: n for n, user in enumerate(crowd.user_ids.tolist())}
        self._items = {item: n for n, item in enumerate(crowd.item_ids.tolist())}
        self._events = itertools.count()

    async def run(self) -> StoredExperiment:
        """Let it happen, until the experiment is decided or its time is over."""
        steps = int(self.scenario.days * 24 / STEP_HOURS)
        visits = self._visits(steps)
        restarts = {self._step_of(self._restart_on_day)} - {None}
        todo = list(enumerate(visits, start=1))
        while todo:
            async with self._gateway() as (client, rollout, fleet):
                while todo:
                    number, users = todo.pop(0)
                    self.calendar.advance(STEP_HOURS)
                    await self._let_visit(client, users)
                    rollout.flush()
                    if await self._decide(rollout, number):
                        todo.clear()
                    if number in restarts:
                        break
                self.champion = await self._settled_champion(fleet)
        store = ExperimentStore(self.home)
        try:
            return store.get(NAME)
        finally:
            store.close()

    @asynccontextmanager
    async def _gateway(
        self,
    ) -> AsyncIterator[tuple[httpx.AsyncClient, ExperimentRollout, Fleet]]:
        """All processes of serving, as `hymirec serve` has them."""
        skew = self.scenario.misrouted
        rollout = (
            SkewedRollout(self.home, self.calendar, skew) if skew
            else ExperimentRollout(self.home, clock=self.calendar)
        )  # fmt: skip
        with rollout:
            # Of simulated days a machine may take any time: what is slow here is not the version.
            settings = GatewaySettings(replicas=1, standby=False, answer_seconds=PATIENT_SECONDS)
            registry = Registry(self.home, self._model)
            fleet = Fleet(registry, self._alias, rollout, settings, PROGRAM)
            rollout.serve_from(lambda version: fleet.served(version) is not None)
            app = create_app(self.home, fleet, rollout=rollout, settings=settings)
            async with app.router.lifespan_context(app):
                await _until_ready(fleet, rollout)
                async with _client(app) as client:
                    yield client, rollout, fleet

    def _visits(self, steps: int) -> list[NDArray[np.int64]]:
        """Numbers of the users who come in each step.

        A user comes some time for a sitting of several lists, and now and then again.
        """
        counts = 1 + self._rng.poisson(self.scenario.visits - 1, len(self.crowd.user_ids))
        users = np.repeat(np.arange(len(counts)), counts)
        first = self._rng.integers(0, steps, len(counts))[users]
        again = self._rng.random(len(users)) < RETURNS
        when = np.where(again, self._rng.integers(first, steps), first)
        order = np.argsort(when, kind="stable")
        return np.split(users[order], np.searchsorted(when[order], np.arange(1, steps)))

    def _step_of(self, day: float | None) -> int | None:
        return None if day is None else int(day * 24 / STEP_HOURS)

    async def _let_visit(self, client: httpx.AsyncClient, users: NDArray[np.int64]) -> None:
        """Answer users, and send what they click."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def ask(some: NDArray[np.int64]) -> None:
            async with gate:
                await self._ask(client, some)

        parts = [users[at : at + PER_REQUEST] for at in range(0, len(users), PER_REQUEST)]
        await asyncio.gather(*(ask(part) for part in parts))

    async def _ask(self, client: httpx.AsyncClient, users: NDArray[np.int64]) -> None:
        names = self.crowd.user_ids[users].tolist()
        asks = [{"user_id": name, "k": LIST_LENGTH} for name in names]
        found = await client.post("/v1/recommendations:batch", json={"requests": asks})
        found.raise_for_status()
        answers = found.json()["answers"]
        for answer in answers:
            self._note(answer)
        events = self._clicks(users, answers)
        if events:
            taken = await client.post("/v1/events", json={"events": events})
            taken.raise_for_status()

    def _note(self, answer: dict[str, Any]) -> None:
        user, version = answer["user_id"], answer["model_version"]
        self.seen.lists += 1
        self.seen.by_version.setdefault(version, set()).add(user)
        if answer["variant"]:
            self.seen.variants.setdefault(user, set()).add(answer["variant"])
            self.seen.answered.append((answer["request_id"], user))

    def _clicks(
        self, users: NDArray[np.int64], answers: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """What users click of their lists, as events."""
        shown = np.full((len(users), LIST_LENGTH), -1)
        for row, answer in enumerate(answers):
            ids = [self._items[one["item_id"]] for one in answer["recommendations"]]
            shown[row, : len(ids)] = ids
        clicked = self._rng.random(shown.shape) < self.crowd.chances(users, shown)
        now = int(self.calendar.now)
        return [
            {
                "event_id": f"simulated-{next(self._events)}",
                "user_id": answers[row]["user_id"],
                "item_id": answers[row]["recommendations"][column]["item_id"],
                "kind": "click",
                "time": now + 1 + int(column),
                "context": {"request_id": answers[row]["request_id"]},
            }
            for row, column in zip(*np.nonzero(clicked), strict=True)
        ]

    async def _decide(self, rollout: ExperimentRollout, number: int) -> bool:
        """Read out as the schedule would; whether all is decided."""
        found = await asyncio.to_thread(self._read_out, NAME, self.calendar)
        self.readings.append(found)
        self._on_step(number * STEP_HOURS / 24, found)
        rollout.look()
        return found["state"] != "running"

    async def _settled_champion(self, fleet: Fleet) -> str:
        """Who answers once the gateway has followed the registry."""
        wanted = await asyncio.to_thread(fleet.registry.resolve, self._alias)
        deadline = time.monotonic() + READY_SECONDS
        while fleet.champion.info.version != wanted and time.monotonic() < deadline:
            fleet.look_now()
            await asyncio.sleep(LOOK_SECONDS)
        return str(fleet.champion.info.version)


def _client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60
    )


async def _until_ready(fleet: Fleet, rollout: ExperimentRollout) -> None:
    """Wait until every version that takes part answers."""
    deadline = time.monotonic() + READY_SECONDS
    while not all(fleet.served(version) for version in rollout.versions()):
        if time.monotonic() > deadline:
            raise HymirecError(f"no version comes up within {READY_SECONDS:.0f} s")
        fleet.look_now()
        await asyncio.sleep(LOOK_SECONDS)
    rollout.look()
