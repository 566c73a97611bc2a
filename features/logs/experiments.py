"""Experiments of a home: what is declared, and what state each is in.

In the database of the event log, so that the gateway, the flow and the command line see one thing.
Every change of state is in the audit log under `experiment/<name>`, by whom and why.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Integer,
    MetaData,
    Row,
    Select,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)

from features.logs.audit_log import AuditLog, Entry
from features.logs.database import Log
from features.logs.events import first_problem
from features.logs.standing import HOLDS_TRAFFIC, State, StoredExperiment, refuse_overlap
from hymirec.abtest.definition import Experiment
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home

log = logging.getLogger(__name__)

_METADATA = MetaData()
_EXPERIMENTS = Table(
    "experiments",
    _METADATA,
    Column("name", String, primary_key=True),
    Column("definition", Text, nullable=False),
    Column("state", String, nullable=False),
    Column("step", Integer, nullable=False),
    Column("versions", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("step_since", Float),
    Column("ended", Float),
    Column("winner", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
)
_ACTIVE = (
    select(_EXPERIMENTS)
    .where(_EXPERIMENTS.c.state.in_(HOLDS_TRAFFIC))
    .order_by(_EXPERIMENTS.c.created)
)

_AT = "at"
"""Of a pause, in its evidence: when, by the store's own clock."""


def subject_of(name: str) -> str:
    """How the audit log calls an experiment."""
    return f"experiment/{name}"


class ExperimentStore(Log):
    """The experiments of one home; may be shared by threads and by processes."""

    what, tables = "experiment store", _METADATA

    def __init__(
        self, home: Home, url: str | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Open the store, making it where there is none; arguments as `EventLog`.

        Args:
            home: whose experiments these are.
            url: as of `EventLog`.
            clock: tells what time it is; simulations have their own.

        Raises:
            UsageError: the address is of no database that can hold it.
            HymirecError: the database cannot be used.
        """
        super().__init__(home, url)
        self.clock = clock
        self.log = AuditLog(home, url)

    def get(self, name: str) -> StoredExperiment:
        """The experiment of a name.

        Raises:
            UsageError: there is none.
        """
        found = self._read(_called(name))
        if not found:
            known = ", ".join(one.name for one in self.all()) or "none"
            raise UsageError(f"no experiment is called {name!r} in {self.home.root}: {known}")
        return found[0]

    def all(self) -> list[StoredExperiment]:
        """All experiments that this release can read, the newest first; of others the log tells."""
        return self._readable(select(_EXPERIMENTS).order_by(_EXPERIMENTS.c.created.desc()))

    def active(self) -> list[StoredExperiment]:
        """Those that hold traffic, in the order they were created; read as `all`."""
        return self._readable(_ACTIVE)

    def revision(self) -> int:
        """A number that changes whenever any experiment does; costs little."""
        query = select(_EXPERIMENTS.c.revision).order_by(_EXPERIMENTS.c.revision.desc()).limit(1)
        with self._database.naming_it(), self._database.engine.connect() as connection:
            return connection.scalar(query) or 0

    def create(
        self, experiment: Experiment, *, actor: str = "", replace_draft: bool = False
    ) -> StoredExperiment:
        """Keep a declaration; nobody takes part yet.

        Args:
            experiment: the declaration.
            actor: who does it, by default who runs this.
            replace_draft: whether it may take the place of one that has not started.

        Raises:
            UsageError: the name was used before: it salts the hash that splits users, and another
                experiment under it would give everyone the same variants again.
        """
        name = experiment.name
        with self.log.moving():
            before = self.refuse_used(name, replace_draft=replace_draft)
            values = {
                "name": name,
                "definition": experiment.model_dump_json(),
                "state": "draft",
                "step": 0,
                "versions": "{}",
                "created": before.created if before else self.clock(),
                "ended": None,
                "winner": "",
                "reason": "changed" if before else "created",
                "revision": self.revision() + 1,
            }
            with self._database.naming_it(), self._database.engine.begin() as connection:
                connection.execute(delete(_EXPERIMENTS).where(_EXPERIMENTS.c.name == name))
                connection.execute(insert(_EXPERIMENTS).values(values))
                self.log.record(
                    "changed" if before else "created", subject_of(name), after="draft",
                    before=before.state if before else "", reason=experiment.hypothesis,
                    evidence={"definition": experiment.model_dump()}, actor=actor,
                    connection=connection,
                )  # fmt: skip
        return self.get(name)

    def refuse_used(self, name: str, *, replace_draft: bool = False) -> StoredExperiment | None:
        """What `create` refuses of a name; returns the draft whose place would be taken.

        Raises:
            UsageError: as `create`.
        """
        found = self._read(_called(name))
        before = found[0] if found else None
        if before is not None and before.started is not None:
            raise UsageError(
                f"an experiment was called {name!r} before: choose another name, "
                "it decides who gets which variant"
            )
        if before is not None and not replace_draft:
            raise UsageError(
                f"{name!r} is there already ({before.state}, never started): choose another "
                "name, or change it: `hymirec experiment create --replace`, or its page"
            )
        return before

    def start(
        self, name: str, versions: Mapping[str, int], *, reason: str = "", actor: str = ""
    ) -> StoredExperiment:
        """Let a draft's first step begin.

        Args:
            name: of the experiment.
            versions: registered version of each variant; they stay these whatever aliases do.
            reason: in a line.
            actor: who does it, by default who runs this.

        Raises:
            UsageError: it is no draft, or another experiment has some of its users: one of the same
                layer, or one of another that decides the same.
        """

        def change(stored: StoredExperiment) -> dict[str, Any]:
            refuse_overlap(replace(stored, versions=dict(versions)), self._read(_ACTIVE))
            now = self.clock()
            return {
                "state": "running", "versions": json.dumps(dict(versions)), "started": now,
                "step_since": now,
            }  # fmt: skip

        return self._move("started", name, ("draft",), change, reason or "started", actor=actor,
                          evidence={"versions": dict(versions)})  # fmt: skip

    def ramp(
        self, name: str, step: int | None = None, *, reason: str, actor: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> StoredExperiment:  # fmt: skip
        """Go to another step, by default the next.

        Raises:
            UsageError: there is none, or the experiment is not running; a step back would take
                variants away from users who have them.
        """

        def change(stored: StoredExperiment) -> dict[str, Any]:
            goal = stored.step + 1 if step is None else step
            last = len(stored.experiment.ramp) - 1
            if goal > last:
                is_there = f"{name} is at step {stored.step + 1}"
                raise UsageError(f"{is_there}, and its ramp has {last + 1}")
            if goal == stored.step:
                raise UsageError(f"{name} is at step {stored.step + 1} already")
            if goal < stored.step:
                raise UsageError(
                    f"{name} is at step {stored.step + 1}: going back would take the variant away "
                    "from users who have it; pause it instead"
                )
            return {"step": goal, "step_since": self.clock()}

        return self._move("ramped", name, ("running",), change, reason, actor=actor,
                          evidence=evidence)  # fmt: skip

    def pause(
        self, name: str, *, reason: str, actor: str = "", evidence: Mapping[str, Any] | None = None
    ) -> StoredExperiment:
        """Give everybody the champion until it goes on; nobody loses the variant he had.

        Raises:
            UsageError: it is not running.
        """
        found = dict(evidence or {}) | {_AT: self.clock()}
        return self._move("paused", name, ("running",), lambda _: {"state": "paused"}, reason,
                          actor=actor, evidence=found)  # fmt: skip

    def resume(self, name: str, *, reason: str = "", actor: str = "") -> StoredExperiment:
        """Go on where it was paused; the step has run for as long as it had then.

        Raises:
            UsageError: it is not paused.
        """

        def change(stored: StoredExperiment) -> dict[str, Any]:
            (paused,) = self.log.read(
                subject=subject_of(name), kinds=("paused",), limit=1, newest_first=True
            )
            paused_at = paused.evidence.get(_AT, paused.time.timestamp())  # older homes: none
            since = stored.progress.step_since + self.clock() - paused_at
            return {"state": "running", "step_since": since}

        return self._move("resumed", name, ("paused",), change, reason or "resumed", actor=actor)

    def end(
        self, name: str, state: Literal["stopped", "rolled_back", "concluded"], *, reason: str,
        kind: str = "", winner: str = "", actor: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> StoredExperiment:  # fmt: skip
        """End it for good: everybody gets the champion, its traffic is free.

        Args:
            name: of the experiment.
            state: stopped by a person, rolled back because something broke, or concluded.
            reason: in a line.
            kind: of the audit log's entry, by default the state.
            winner: variant that won, of one concluded.
            actor: who does it, by default who runs this.
            evidence: as of the entry.

        Raises:
            UsageError: it has ended, or there is no such variant.
        """

        def change(stored: StoredExperiment) -> dict[str, Any]:
            if winner:
                stored.experiment.variant(winner)
            return {"state": state, "ended": self.clock(), "winner": winner}

        come_from: tuple[State, ...] = ("running", "paused")
        if state == "stopped":
            come_from = ("draft", *come_from)
        found = dict(evidence or {}) | ({"winner": winner} if winner else {})
        return self._move(
            kind or state, name, come_from, change, reason, actor=actor, evidence=found
        )

    def kill(self, name: str, *, reason: str = "killed", actor: str = "") -> StoredExperiment:
        """The kill switch: `end` it as stopped, now.

        Raises:
            UsageError: it has ended.
        """
        return self.end(name, "stopped", reason=reason, kind="killed", actor=actor)

    def kill_all(self, *, reason: str = "killed", actor: str = "") -> list[StoredExperiment]:
        """The kill switch of all that hold traffic; those that it ended."""
        killed = []
        for one in self.active():
            with suppress(UsageError):  # it has just ended
                killed.append(self.kill(one.name, reason=reason, actor=actor))
        return killed

    def history(self, name: str, limit: int = 100) -> list[Entry]:
        """What was done with an experiment, the newest first."""
        return self.log.read(subject=subject_of(name), limit=limit, newest_first=True)

    def close(self) -> None:
        """Close all connections."""
        self.log.close()
        super().close()

    def _move(
        self, kind: str, name: str, come_from: tuple[State, ...],
        change: Callable[[StoredExperiment], dict[str, Any]], reason: str, *, actor: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> StoredExperiment:  # fmt: skip
        """Change a row and record it, both or neither, one at a time among processes."""
        with self.log.moving():
            before = self.get(name)
            if before.state not in come_from:
                raise UsageError(
                    f"{name} is {before.state.replace('_', ' ')}: "
                    f"only one that is {' or '.join(come_from)} can be {kind.replace('_', ' ')}"
                )
            values = change(before) | {"reason": reason, "revision": self.revision() + 1}
            statement = update(_EXPERIMENTS).where(_EXPERIMENTS.c.name == name).values(values)
            with self._database.naming_it(), self._database.engine.begin() as connection:
                connection.execute(statement)
                after = _stored(connection.execute(_called(name)).one())
                self.log.record(
                    kind, subject_of(name), before=_standing(before), after=_standing(after),
                    reason=reason, evidence=evidence, actor=actor, connection=connection,
                )  # fmt: skip
        return after

    def _read(self, query: Any) -> list[StoredExperiment]:
        return [_stored(row) for row in self._rows(query)]

    def _readable(self, query: Any) -> list[StoredExperiment]:
        """As `_read`; one that a later release declared keeps nobody from the others."""
        found = []
        for row in self._rows(query):
            try:
                found.append(_stored(row))
            except HymirecError as error:
                log.warning("%s: it is passed over", error)
        return found

    def _rows(self, query: Any) -> Sequence[Row[Any]]:
        with self._database.naming_it(), self._database.engine.connect() as connection:
            return connection.execute(query).all()


def _called(name: str) -> Select[Any]:
    return select(_EXPERIMENTS).where(_EXPERIMENTS.c.name == name)


def _standing(stored: StoredExperiment) -> str:
    return f"running {stored.share:g}" if stored.state == "running" else stored.state


def _stored(row: Row[Any]) -> StoredExperiment:
    try:
        experiment = Experiment.model_validate_json(row.definition)
    except ValidationError as error:
        raise HymirecError(
            f"experiment {row.name} ({row.state}) cannot be read by this release: "
            f"{first_problem(error)}"
        ) from error
    return StoredExperiment(
        experiment, row.state, row.step,
        json.loads(row.versions), row.created, row.started, row.step_since, row.ended,
        row.winner, row.reason, row.revision,
    )  # fmt: skip
