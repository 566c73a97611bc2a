"""The day itself: what is broken when, and when all is well again."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import requests

from benchmarks.hostile_day.journal import Journal, Sent
from benchmarks.hostile_day.load import Load, ask, send
from benchmarks.hostile_day.proof import Window
from benchmarks.hostile_day.stage import EXPERIMENT, Stage, say

GIVEN_UP_SECONDS = 300
"""After which what is not well again is taken for dead, whatever its limit."""


class BrokenPromiseError(Exception):
    """Something answered otherwise than it has to."""


@dataclass(frozen=True)
class Injury:
    """One thing that goes wrong, or that is done on an ordinary day.

    Attributes:
        name: in a word or two.
        says: what is done, in a line.
        inflict: does it, and undoes what does not heal by itself; what was seen, in a line.
        limit: seconds from then in which all has to be well again, on a machine of its own.
        quick: whether it is part of a quick day.
        well: what has to be true beyond `Day.well`.
    """

    name: str
    says: str
    inflict: Callable[[Day], str]
    limit: float
    quick: bool = True
    well: Callable[[Day], bool] = lambda day: True


@dataclass(frozen=True)
class Outcome:
    """What became of an injury.

    Attributes:
        injury: which.
        begun: seconds since 1970, when it began.
        mended: when what caused it was gone.
        well: when all was well again; None if it never was.
        saw: what was seen.
        limit: seconds in which all had to be well again, on this machine.
        broke: the promise that was broken, if one was.
    """

    injury: Injury
    begun: float
    mended: float
    well: float | None
    saw: str
    limit: float
    broke: str = ""

    @property
    def seconds(self) -> float | None:
        """From the cause's end to all being well."""
        return None if self.well is None else self.well - self.mended

    @property
    def green(self) -> bool:
        """Whether it was got over in time and no promise was broken."""
        return not self.broke and self.seconds is not None and self.seconds <= self.limit

    @property
    def window(self) -> Window:
        """In which requests may have suffered from it; a second longer, for those on their way."""
        return Window(self.injury.name, self.begun, (self.well or time.time()) + 1)


@dataclass
class Day:
    """What injuries need: the stage, the clients' journal, chance."""

    stage: Stage
    load: Load
    journal: Journal
    rng: random.Random
    patience: float = 1.0
    """Times the limits: they are for a machine with nothing else to do."""
    users: dict[str, str] = field(default_factory=dict)
    """Somebody of each variant; under '' somebody of neither."""
    outcomes: list[Outcome] = field(default_factory=list)
    since: float = 0.0
    """When the present injury began, seconds since 1970."""
    restarts: int = 0
    """Model servers started again before it."""
    damaged: tuple[Path, str] = (Path(), "")
    """A file that it changed, and its digest from before."""

    def settle(self) -> None:
        """Find somebody of each variant, once the experiment has begun."""
        self.stage.until("both variants are shown", self._finds_users, 120)

    def run(self, plan: Sequence[tuple[float, Injury]], seconds: float) -> None:
        """Go through a plan under load; at least so many seconds.

        Args:
            plan: seconds from now, and what is to be done then or as soon as the one before is
                got over.
            seconds: that it lasts.
        """
        started = time.monotonic()
        for when, injury in plan:
            time.sleep(max(0.0, started + when - time.monotonic()))
            outcome = self.suffer(injury)
            self.outcomes.append(outcome)
            say(f"{'green' if outcome.green else 'RED  '} {injury.name}: {_tell(outcome)}")
            if self.load.broken:
                raise self.load.broken[0]
        time.sleep(max(0.0, started + seconds - time.monotonic()))

    def suffer(self, injury: Injury) -> Outcome:
        """Inflict one injury and wait until it is got over."""
        self.since = begun = time.time()
        broke = saw = ""
        try:
            saw = injury.inflict(self)
        except BrokenPromiseError as error:
            broke = str(error)
        mended = time.time()
        well: float | None = None
        limit = self.patience * injury.limit
        while time.time() < mended + max(limit, GIVEN_UP_SECONDS):
            # In this order: before the gateway has noticed a kill, all seems well.
            if injury.well(self) and self.well():
                well = time.time()
                break
            time.sleep(0.3)
        return Outcome(injury, begun, mended, well, saw, limit, broke)

    def well(self) -> bool:
        """Whether all processes run, answers are whole, and an event goes all the way."""
        if not self.stage.whole():
            return False
        with requests.Session() as session:
            for variant, user in self.users.items():
                found = ask(session, self.stage.url, f"probe-{uuid.uuid4().hex}", user)
                if found.failed or found.degraded or (variant and found.variant != variant):
                    return False
            event = self.event()
            if not send(session, self.stage.url, [event], self.journal):
                return False
        return self._arrives(event)

    def event(self, moment: int | None = None) -> Sent:
        """A click nobody has sent yet; not of the seed: how many it takes is the machine's."""
        return Sent(
            f"probe-{uuid.uuid4().hex}", random.choice(self.load.users),
            random.choice(self.load.items), "click",
            int(time.time()) if moment is None else moment,
        )  # fmt: skip

    def _arrives(self, event: Sent) -> bool:
        """Whether consumers come past an event."""
        deadline = time.monotonic() + 5
        query = (
            "SELECT o.position >= e.position FROM events e, offsets o "
            "WHERE e.event_id = %s AND o.consumer = 'histories'"
        )
        try:
            with psycopg.connect(self.stage.event_log, connect_timeout=3) as connection:
                while time.monotonic() < deadline:
                    row = connection.execute(query, [event.event_id]).fetchone()
                    connection.commit()
                    if row and row[0]:
                        return True
                    time.sleep(0.05)
        except psycopg.Error as error:
            # It may be what is broken just now: then nothing arrives, and who waits asks again.
            say(f"the event log cannot be asked: {type(error).__name__}")
        return False

    def _finds_users(self) -> bool:
        wanted = {"", f"{EXPERIMENT}/control", f"{EXPERIMENT}/treatment"}
        with requests.Session() as session:
            for user in self.load.users[:40]:
                found = ask(session, self.stage.url, f"probe-{uuid.uuid4().hex}", user)
                if not found.failed and not found.degraded:
                    self.users.setdefault(found.variant, user)
        return self.users.keys() == wanted


def plan(
    injuries: Sequence[Injury], seconds: float, rng: random.Random
) -> list[tuple[float, Injury]]:
    """Say when each injury is inflicted: in an order of chance, spread over the day."""
    order = list(injuries)
    rng.shuffle(order)
    slot = 0.9 * seconds / len(order)
    return [
        (slot * (number + rng.uniform(0.1, 0.4)), injury)
        for number, injury in enumerate(_in_sequence(order))
    ]


def _in_sequence(order: list[Injury]) -> list[Injury]:
    """Going back comes after going forward, whatever chance says."""
    names = [one.name for one in order]
    if {"promotion", "rollback"} <= set(names):
        first, second = names.index("promotion"), names.index("rollback")
        if first > second:
            order[first], order[second] = order[second], order[first]
    return order


def _tell(outcome: Outcome) -> str:
    seconds = "never" if outcome.seconds is None else f"after {outcome.seconds:.1f} s"
    return f"{outcome.broke or outcome.saw}; well again {seconds} (limit {outcome.limit:.0f})"
