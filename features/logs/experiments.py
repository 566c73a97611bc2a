"""Experiments of a home: what is declared, what state each is in, and what was read of it.

In the database of the event log, so that the gateway, the flow and the command line see one thing.
Every change of state is in the audit log under `experiment/<name>`, by whom and why.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Integer,
    MetaData,
    Row,
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
from hymirec.abtest.decisions import Progress
from hymirec.abtest.definition import Experiment
from hymirec.errors import UsageError
from hymirec.home import Home

State = Literal["draft", "running", "paused", "stopped", "rolled_back", "concluded"]
HOLDS_TRAFFIC: tuple[State, ...] = ("running", "paused")
"""States in which an experiment's users are nobody else's."""
FINISHED: tuple[State, ...] = ("stopped", "rolled_back", "concluded")

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


@dataclass(frozen=True)
class StoredExperiment:
    """An experiment and where it stands.

    Attributes:
        experiment: as it was declared; once started it never changes.
        state: draft, running, paused; or ended: stopped, rolled_back, concluded.
        step: of the ramp, from 0.
        versions: registered version of each variant, fixed when it started; empty before.
        created: seconds since 1970 UTC, like those that follow.
        started: None before.
        step_since: when the present step began; None before.
        ended: None before.
        winner: variant that won, empty where none did.
        reason: of the last change.
        revision: grows with every change.
    """

    experiment: Experiment
    state: State
    step: int
    versions: dict[str, int]
    created: float
    started: float | None
    step_since: float | None
    ended: float | None
    winner: str
    reason: str
    revision: int

    @property
    def name(self) -> str:
        """Of the experiment."""
        return self.experiment.name

    @property
    def share(self) -> float:
        """Of its traffic that takes part at present."""
        return self.experiment.ramp[self.step].share if self.state == "running" else 0.0

    @property
    def chooses_versions(self) -> bool:
        """Whether it decides which version answers, not only what one is asked with."""
        return self.experiment.mode != "ab" or len(set(self.versions.values())) > 1

    @property
    def progress(self) -> Progress:
        """For `hymirec.abtest.decisions`; of one that has started."""
        assert self.started is not None
        assert self.step_since is not None
        return Progress(self.step, self.started, self.step_since)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return vars(self) | {
            "experiment": self.experiment.model_dump(),
            "name": self.name,
            "share": self.share,
        }


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
        found = self._read(select(_EXPERIMENTS).where(_EXPERIMENTS.c.name == name))
        if not found:
            known = ", ".join(one.name for one in self.all()) or "none"
            raise UsageError(f"no experiment is called {name!r} in {self.home.root}: {known}")
        return found[0]

    def all(self) -> list[StoredExperiment]:
        """All experiments, the newest first."""
        return self._read(select(_EXPERIMENTS).order_by(_EXPERIMENTS.c.created.desc()))

    def active(self) -> list[StoredExperiment]:
        """Those that hold traffic, in the order they were created."""
        query = select(_EXPERIMENTS).where(_EXPERIMENTS.c.state.in_(HOLDS_TRAFFIC))
        return self._read(query.order_by(_EXPERIMENTS.c.created))

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
                "changed" if before else "created", subject_of(name), after="draft", actor=actor,
                before=before.state if before else "", reason=experiment.hypothesis,
                evidence={"definition": experiment.model_dump()},
            )  # fmt: skip
        return self.get(name)

    def refuse_used(self, name: str, *, replace_draft: bool = False) -> StoredExperiment | None:
        """What `create` refuses of a name; returns the draft whose place would be taken.

        Raises:
            UsageError: as `create`.
        """
        before = next((one for one in self.all() if one.name == name), None)
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
            self._refuse_overlap(replace(stored, versions=dict(versions)))
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
            if goal <= stored.step:
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
        return self._move("paused", name, ("running",), lambda _: {"state": "paused"}, reason,
                          actor=actor, evidence=evidence)  # fmt: skip

    def resume(self, name: str, *, reason: str = "", actor: str = "") -> StoredExperiment:
        """Go on where it was paused.

        Raises:
            UsageError: it is not paused.
        """
        return self._move("resumed", name, ("paused",), lambda _: {"state": "running"},
                          reason or "resumed", actor=actor)  # fmt: skip

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

    def _refuse_overlap(self, stored: StoredExperiment) -> None:
        traffic = stored.experiment.traffic
        for other in self.active():
            if other.name != stored.name and traffic.overlaps(other.experiment.traffic):
                has = other.experiment.traffic
                raise UsageError(
                    f"{stored.name} wants {traffic.begin:g} to {traffic.end:g} of layer "
                    f"{traffic.layer!r}, and {other.name} ({other.state}) has {has.begin:g} to "
                    f"{has.end:g}: nobody can be in both"
                )
            if other.experiment.traffic.layer == traffic.layer:
                continue
            if stored.chooses_versions and other.chooses_versions:
                raise UsageError(
                    f"{stored.name} and {other.name} ({other.state}) both choose versions, so they "
                    f"have to share layer {other.experiment.traffic.layer!r}"
                )
            both = stored.experiment.settings & other.experiment.settings
            if both:
                raise UsageError(
                    f"{stored.name} and {other.name} ({other.state}) both set {min(both)}, so they "
                    f"have to share layer {other.experiment.traffic.layer!r}"
                )

    def _move(
        self, kind: str, name: str, come_from: tuple[State, ...],
        change: Callable[[StoredExperiment], dict[str, Any]], reason: str, *, actor: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> StoredExperiment:  # fmt: skip
        """Change a row and record it, one at a time among processes."""
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
            after = self.get(name)
            self.log.record(
                kind, subject_of(name), before=_standing(before), after=_standing(after),
                reason=reason, evidence=evidence, actor=actor,
            )  # fmt: skip
        return after

    def _read(self, query: Any) -> list[StoredExperiment]:
        with self._database.naming_it(), self._database.engine.connect() as connection:
            return [_stored(row) for row in connection.execute(query)]


def _standing(stored: StoredExperiment) -> str:
    return f"running {stored.share:g}" if stored.state == "running" else stored.state


def _stored(row: Row[Any]) -> StoredExperiment:
    return StoredExperiment(
        Experiment.model_validate_json(row.definition), row.state, row.step,
        json.loads(row.versions), row.created, row.started, row.step_since, row.ended,
        row.winner, row.reason, row.revision,
    )  # fmt: skip
