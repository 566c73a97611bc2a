"""Readouts of experiments over time, each with what was decided on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    Float,
    Index,
    MetaData,
    Row,
    String,
    Text,
    insert,
    select,
)

from features.logs.database import Log, numbered_table
from hymirec.abtest.decisions import Decision
from hymirec.abtest.readout import Readout

_METADATA = MetaData()
_READOUTS = numbered_table(
    "experiment_readouts",
    _METADATA,
    Column("experiment", String, nullable=False),
    Column("time", Float, nullable=False),
    Column("readout", Text, nullable=False),
    Column("action", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Index("readouts_of_experiment", "experiment", "position"),
)


@dataclass(frozen=True)
class Reading:
    """One readout and what was decided on it.

    Attributes:
        position: in the order they were made.
        experiment: its name.
        time: seconds since 1970 UTC.
        readout: JSON values of `hymirec.abtest.readout.Readout`.
        action: what was decided.
        reason: why, in a line.
        evidence: the numbers behind it.
    """

    position: int
    experiment: str
    time: float
    readout: dict[str, Any]
    action: str
    reason: str
    evidence: dict[str, Any]


class ReadingLog(Log):
    """The readouts of one home; may be shared by threads and by processes."""

    what, tables = "readout log", _METADATA

    def append(self, readout: Readout, decision: Decision) -> Reading:
        """Keep a readout and what was decided on it."""
        row = {
            "experiment": readout.experiment,
            "time": readout.time,
            "readout": json.dumps(readout.to_json()),
            "action": decision.action,
            "reason": decision.reason,
            "evidence": json.dumps(decision.evidence),
        }
        with self._database.naming_it(), self._database.engine.begin() as connection:
            self._database.in_order(connection)
            statement = insert(_READOUTS).values(row).returning(_READOUTS)
            return _reading(connection.execute(statement).one())

    def of_experiment(
        self, name: str, *, limit: int = 1000, newest_first: bool = False
    ) -> list[Reading]:
        """Readouts of an experiment, the last ones if there are more than `limit`."""
        query = select(_READOUTS).where(_READOUTS.c.experiment == name)
        query = query.order_by(_READOUTS.c.position.desc()).limit(limit)
        with self._database.naming_it(), self._database.engine.connect() as connection:
            found = [_reading(row) for row in connection.execute(query)]
        return found if newest_first else found[::-1]


def _reading(row: Row[Any]) -> Reading:
    return Reading(
        row.position, row.experiment, row.time, json.loads(row.readout), row.action, row.reason,
        json.loads(row.evidence),
    )  # fmt: skip
