"""The audit log: who changed what is in production, when, from what to what, and why.

Promotions, refusals and rollbacks of model versions, and the life of experiments. It is in the
database of the event log (`features.logs.database`), which lets nobody change or delete an entry;
what was decided otherwise later is another entry. It knows nothing of models or experiments: a
subject is a text such as `hymirec@champion`, its states are texts too.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Index,
    MetaData,
    Row,
    String,
    Text,
    event,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.engine import Connection

from features.logs.database import Log, numbered_table

ENV_ACTOR = "HYMIREC_ACTOR"
"""Who acts, where the account's name would not say, such as in CI."""

PROMOTION, NOMINATION, FORCED, ROLLBACK, NOTICED, REFUSAL, VERDICT = (
    "promotion",
    "nomination",
    "forced",
    "rollback",
    "noticed",
    "refusal",
    "verdict",
)
MOVES = (PROMOTION, NOMINATION, FORCED, ROLLBACK, NOTICED)
"""Kinds after which a subject's state is the entry's `after`; a refusal and a
verdict leave it as it was."""
UNKNOWN = "unknown"
"""The actor of what was done behind our back."""


def alias_subject(model: str, alias: str) -> str:
    """How the log calls an alias of a registered model."""
    return f"{model}@{alias}"


_METADATA = MetaData()
_AUDIT = numbered_table(
    "audit",
    _METADATA,
    Column("microseconds", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("before", String, nullable=False),
    Column("after", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Index("audit_of_subject", "subject", "position"),
)
_REFUSED = "the audit log is append-only"
_REFUSE = f"BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"
_GUARDS = {
    "sqlite": (
        f"CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit {_REFUSE}",
        f"CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit {_REFUSE}",
        # REPLACE deletes, but not so that the trigger above would see it. (Fixed text: nothing
        # from outside is in these statements.)
        "CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit "  # noqa: S608
        "WHEN EXISTS (SELECT 1 FROM audit WHERE position = NEW.position) " + _REFUSE,
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSED}'; END $$",
        "CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
    ),
}
for _dialect, _statements in _GUARDS.items():
    for _statement in _statements:
        event.listen(_AUDIT, "after_create", DDL(_statement).execute_if(dialect=_dialect))


@dataclass(frozen=True)
class Entry:
    """One thing that was decided or noticed.

    Attributes:
        position: its place in the log, from 1.
        time: when it was written, UTC; never before the entry ahead of it.
        kind: what it was, such as `promotion`.
        subject: what it was about.
        actor: who did it.
        before: the subject's state until then, empty where it had none.
        after: the state it was to have.
        reason: in a line.
        evidence: what it rested on, as JSON values: verdict, addresses of artifacts.
    """

    position: int
    time: datetime
    kind: str
    subject: str
    actor: str
    before: str
    after: str
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return vars(self) | {"time": self.time.isoformat(timespec="milliseconds")}


class AuditLog(Log):
    """The log of one home; may be shared by threads and by processes."""

    what, tables = "audit log", _METADATA

    def record(
        self, kind: str, subject: str, *, before: str = "", after: str = "", reason: str = "",
        evidence: Mapping[str, Any] | None = None, actor: str = "",
        connection: Connection | None = None,
    ) -> Entry:  # fmt: skip
        """Append an entry; it is on disk when this returns.

        Args:
            kind: as of `Entry`, like those that follow.
            subject: what it is about.
            before: state until now.
            after: state from now on, or the one that was refused.
            reason: in a line.
            evidence: JSON values.
            actor: `current_actor()` where it is not given.
            connection: in whose transaction, of the same database, the entry is to be: it is there
                when what else is in it is there, and not otherwise.

        Raises:
            HymirecError: the log cannot be written.
        """
        values = {
            "kind": kind,
            "subject": subject,
            "actor": actor or current_actor(),
            "before": before,
            "after": after,
            "reason": reason,
            "evidence": json.dumps(dict(evidence or {})),
        }
        # A clock set back must not put an entry before those it came after.
        last = select(func.coalesce(func.max(_AUDIT.c.microseconds), 0)).scalar_subquery()
        now = time.time_ns() // 1000
        latest = func.max if self._database.is_sqlite else func.greatest
        rows = select(latest(last, now), *(literal(value) for value in values.values()))
        statement = insert(_AUDIT).from_select(["microseconds", *values], rows)
        own = nullcontext(connection) if connection else self._database.engine.begin()
        with self._database.naming_it(), own as transaction:
            self._database.in_order(transaction)
            transaction.execute(statement)
            written = select(_AUDIT).order_by(_AUDIT.c.position.desc()).limit(1)
            return _from_row(transaction.execute(written).one())

    def read(
        self, *, subject: str = "", kinds: Collection[str] = (), after: int = 0,
        before: int | None = None, limit: int = 100, newest_first: bool = False,
    ) -> list[Entry]:  # fmt: skip
        """Read a page of entries.

        Args:
            subject: only of this one.
            kinds: only of these.
            after: only positions above.
            before: only positions below; with `newest_first`, the last position of the page before.
            limit: entries, at most.
            newest_first: the order.
        """
        query = select(_AUDIT).where(_AUDIT.c.position > after)
        if before is not None:
            query = query.where(_AUDIT.c.position < before)
        order = _AUDIT.c.position.desc() if newest_first else _AUDIT.c.position.asc()
        return self._read(_about(query, subject, kinds).order_by(order).limit(limit))

    def as_of(self, subject: str, moment: datetime, kinds: Collection[str] = MOVES) -> Entry | None:
        """The last entry up to a moment, so that its `after` was the state then; None before all.

        Args:
            subject: whose state.
            moment: a time with its zone.
            kinds: those that set the state.
        """
        microseconds = round(moment.timestamp() * 1_000_000)
        query = select(_AUDIT).where(_AUDIT.c.microseconds <= microseconds)
        query = _about(query, subject, kinds).order_by(_AUDIT.c.position.desc()).limit(1)
        found = self._read(query)
        return found[0] if found else None

    def state(self, subject: str, kinds: Collection[str] = MOVES) -> str:
        """The state that the log knows of; empty where it knows none."""
        last = self.read(subject=subject, kinds=kinds, newest_first=True, limit=1)
        return last[0].after if last else ""

    def moving(self) -> AbstractContextManager[None]:
        """Hold the right to change a state and record it: one holder at a time, among processes.

        Whoever changes a state that others watch does both inside, so that nobody who looks
        in between takes the change for one that was never recorded.
        """
        return self._database.holding("moving")

    def notice(
        self, subject: str, look: Callable[[], str], *, reason: str = "moved by other means"
    ) -> Entry | None:
        """Record that a subject's state is not what the log says, if so.

        Args:
            subject: whose.
            look: reads the state as it is; called while nobody is `moving`.
            reason: said of a move; the first state ever seen is the log's beginning.

        Returns:
            The entry, or None where there is nothing new.
        """
        if look() == self.state(subject):  # mostly; and it keeps nobody waiting
            return None
        with self.moving():
            known, seen = self.state(subject), look()
            if known == seen:
                return None
            begun = bool(self.read(subject=subject, kinds=MOVES, limit=1))
            return self.record(
                NOTICED, subject, before=known, after=seen, actor=UNKNOWN,
                reason=reason if begun else "found so when this log began",
            )  # fmt: skip

    def _read(self, query: Any) -> list[Entry]:
        with self._database.naming_it(), self._database.engine.connect() as connection:
            return [_from_row(row) for row in connection.execute(query)]


def current_actor() -> str:
    """Who is acting: `HYMIREC_ACTOR`, or the account and the machine."""
    if named := os.environ.get(ENV_ACTOR, "").strip():
        return named
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # an account that has no name, as in a container
        account = f"uid {os.getuid()}"
    return f"{account}@{socket.gethostname()}"


def _about(query: Any, subject: str, kinds: Collection[str]) -> Any:
    if subject:
        query = query.where(_AUDIT.c.subject == subject)
    return query.where(_AUDIT.c.kind.in_(list(kinds))) if kinds else query


def _from_row(row: Row[Any]) -> Entry:
    seconds, rest = divmod(row.microseconds, 1_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
    return Entry(
        row.position, moment, row.kind, row.subject, row.actor, row.before, row.after, row.reason,
        json.loads(row.evidence),
    )  # fmt: skip
