"""The exposure log: one row for each list that was served, and for each that should have been.

The gateway writes through a journal (`features.logs.exposure_journal`), whose rows are never lost
and never there twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Index,
    MetaData,
    String,
    Text,
    func,
    select,
)

from features.logs.database import Log, numbered_table

_METADATA = MetaData()
_EXPOSURES = numbered_table(
    "exposures",
    _METADATA,
    Column("exposure_id", String, nullable=False, unique=True),
    Column("request_id", String, nullable=False),
    Column("time", Float, nullable=False),
    Column("experiment", String, nullable=False),
    Column("user_id", String, nullable=False),
    Column("variant", String, nullable=False),
    Column("mode", String, nullable=False),
    Column("model_version", String, nullable=False),
    Column("codebook_id", String, nullable=False),
    Column("feature_age_seconds", Float),
    Column("served_by", String, nullable=False),
    Column("degraded", String, nullable=False),
    Column("error", String, nullable=False),
    Column("is_fallback", Boolean, nullable=False),
    Column("is_override", Boolean, nullable=False),
    Column("propensity", Float, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("items", Text, nullable=False),
    Column("interests", Text, nullable=False),
    Column("teams", Text, nullable=False),
    Index("exposures_of_experiment", "experiment", "time"),
    Index("exposures_by_time", "time"),
    Index("exposures_of_user", "user_id"),
)
_SHADOWS = numbered_table(
    "shadow_answers",
    _METADATA,
    Column("exposure_id", String, nullable=False, unique=True),
    Column("experiment", String, nullable=False),
    Column("request_id", String, nullable=False),
    Column("time", Float, nullable=False),
    Column("overlap", Float, nullable=False),
    Column("same_first", Boolean, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("champion_latency_ms", Float, nullable=False),
    Column("error", String, nullable=False),
    Index("shadows_of_experiment", "experiment", "time"),
)


@dataclass(frozen=True)
class Exposure:
    """One list that was served.

    Attributes:
        request_id: of the request; a request for several users has one.
        time: when it was answered, seconds since 1970 UTC.
        experiment: empty of a list outside all experiments, like the variant.
        user_id: whose list; empty of a visitor.
        variant: what was shown.
        mode: of the experiment; empty outside.
        model_version: which registered version made the list.
        codebook_id: the version's.
        feature_age_seconds: since the user's row was written; None without one.
        served_by: path of the answer, such as `full` or `popular`.
        degraded: why the answer is not as good as it should be, empty where it is.
        error: why the variant's model did not answer, empty where it did.
        is_fallback: whether something else answered in the variant's place: no exposure.
        is_override: whether the user is a tester: no exposure either.
        propensity: chance of this variant among those who take part.
        latency_ms: from the request to the answer.
        items: ids in the order they were shown, the position from 1 being the place in the list.
        interests: which interest found each, from 1; 0 where none did.
        teams: of interleaving, which version picked each, 0 the control's.
    """

    request_id: str
    time: float
    experiment: str
    user_id: str
    variant: str
    mode: str
    model_version: str
    codebook_id: str
    feature_age_seconds: float | None
    served_by: str
    degraded: str
    error: str
    is_fallback: bool
    is_override: bool
    propensity: float
    latency_ms: float
    items: Sequence[str]
    interests: Sequence[int] = ()
    teams: Sequence[int] = ()


@dataclass(frozen=True)
class ShadowAnswer:
    """One answer of a challenger that nobody was shown, against the champion's.

    Attributes:
        request_id: of the request.
        time: seconds since 1970 UTC.
        experiment: its name.
        overlap: share of the champion's items that it has too.
        same_first: whether both begin with the same item.
        latency_ms: of the challenger's model server.
        champion_latency_ms: of the champion's.
        error: why it did not answer, empty where it did.
    """

    request_id: str
    time: float
    experiment: str
    overlap: float
    same_first: bool
    latency_ms: float
    champion_latency_ms: float
    error: str


_TABLES = {"Exposure": _EXPOSURES, "ShadowAnswer": _SHADOWS}
_LISTS = ("items", "interests", "teams")


class ExposureLog(Log):
    """The log of one home; may be shared by threads and by processes."""

    what, tables = "exposure log", _METADATA

    def append(self, rows: Sequence[dict[str, Any]]) -> int:
        """Add rows, all or none; when this returns they are on disk.

        Args:
            rows: fields of `Exposure` and `ShadowAnswer`, with the class's name as `kind` and an
                `exposure_id` of their own.

        Returns:
            How many were new: a row whose id is there already is passed over.

        Raises:
            HymirecError: the log cannot be written; nothing of the call is in it.
        """
        new = 0
        with self._database.naming_it(), self._database.engine.begin() as connection:
            self._database.in_order(connection)
            for kind, table in _TABLES.items():
                of_kind = [_columns(row) for row in rows if row["kind"] == kind]
                if of_kind:
                    fresh = self._database.insert(table).on_conflict_do_nothing(
                        index_elements=["exposure_id"]
                    )
                    statement = fresh.returning(table.c.position)
                    new += len(connection.execute(statement, of_kind).all())
        return new

    def of_experiment(self, name: str) -> pd.DataFrame:
        """All rows of an experiment in the order of time; columns as the fields of `Exposure`."""
        query = select(_EXPOSURES).where(_EXPOSURES.c.experiment == name)
        return self._exposures(query.order_by(_EXPOSURES.c.time, _EXPOSURES.c.position))

    def since(self, moment: float, limit: int) -> pd.DataFrame:
        """The latest rows of any list served since a moment, at most `limit`, likewise."""
        query = select(_EXPOSURES).where(_EXPOSURES.c.time >= moment)
        query = query.order_by(_EXPOSURES.c.time.desc(), _EXPOSURES.c.position.desc()).limit(limit)
        return self._exposures(query).iloc[::-1].reset_index(drop=True)

    def of_user(self, user_id: str, limit: int = 50) -> pd.DataFrame:
        """The latest lists of one user, the newest first."""
        query = select(_EXPOSURES).where(_EXPOSURES.c.user_id == user_id)
        return self._exposures(query.order_by(_EXPOSURES.c.position.desc()).limit(limit))

    def shadows(self, name: str) -> pd.DataFrame:
        """All shadow answers of an experiment; columns as the fields of `ShadowAnswer`."""
        return self._frame(select(_SHADOWS).where(_SHADOWS.c.experiment == name))

    def count(self, name: str) -> int:
        """Rows of an experiment."""
        query = select(func.count()).where(_EXPOSURES.c.experiment == name)
        with self._database.naming_it(), self._database.engine.connect() as connection:
            return connection.scalar(query) or 0

    def _exposures(self, query: Any) -> pd.DataFrame:
        frame = self._frame(query)
        for name in _LISTS:
            # As one text: ten times as fast as one by one.
            frame[name] = json.loads(f"[{','.join(frame[name])}]")
        return frame

    def _frame(self, query: Any) -> pd.DataFrame:
        with self._database.naming_it(), self._database.engine.connect() as connection:
            found = connection.execute(query)
            return pd.DataFrame(found.all(), columns=list(found.keys()))


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: json.dumps(value) if isinstance(value, list | tuple) else value
        for name, value in row.items()
        if name != "kind"
    }
