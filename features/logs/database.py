"""The database that a home's logs are in: a SQLite file, or PostgreSQL by address."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import ClassVar, Literal

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    MetaData,
    Table,
    create_engine,
    event,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import SchemaItem

from features.addresses import hide_password, postgresql_url
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home

ENV_EVENT_LOG = "HYMIREC_EVENT_LOG"
"""Address of the logs, `postgresql://…`; a SQLite file of the home where it is not set."""

Right = Literal["writing", "tables", "moving"]
"""To write rows online, to make tables, to move a state that the audit log tells of."""
_LOCKS: dict[Right, int] = {"writing": 0x48594D4A, "tables": 0x48594D4B, "moving": 0x48594D4C}
"""Numbers of PostgreSQL's advisory locks; any will do that nobody else takes."""
_APPEND_LOCK = 0x48594D49


class LogDatabase:
    """The connections of one log; may be shared by threads."""

    def __init__(self, home: Home, what: str, url: str | None = None) -> None:
        """Open the database, making it where there is none.

        Args:
            home: whose log it is.
            what: how errors name the log.
            url: its address; by default what `HYMIREC_EVENT_LOG` says, or a file of the home.

        Raises:
            UsageError: the address is of no database that can hold it.
        """
        self._home, self._what = home, what
        address: str | URL = url or os.environ.get(ENV_EVENT_LOG, "")
        if address:
            address = postgresql_url(ENV_EVENT_LOG, str(address))
        else:
            home.events.mkdir(parents=True, exist_ok=True)
            # Not a text, in which a path's percent signs would be read as escapes.
            address = URL.create("sqlite", database=str(home.events / "log.db"))
        try:
            self.engine = _engine(address)
        except ImportError as error:
            raise UsageError(
                f"a PostgreSQL {what} needs the package psycopg: pip install 'hymirec[scale]'"
            ) from error

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file, not a server's."""
        return self.engine.dialect.name == "sqlite"

    def make(self, tables: MetaData) -> None:
        """Make the tables that are not there yet.

        Raises:
            HymirecError: the database cannot be used.
        """
        # Two processes that find no table would both make it.
        with self.holding("tables"), self.naming_it(), self.engine.begin() as connection:
            tables.create_all(connection)

    @contextlib.contextmanager
    def holding(self, right: Right, *, shared: bool = False) -> Iterator[None]:
        """Hold a right that one at a time has, of threads and of processes; it goes with them.

        Args:
            right: which.
            shared: hold it together with others who share it. Who wants it alone is not kept out
                by a stream of such: those who come later wait for him.
        """
        if self.is_sqlite:
            lock = self._home.events / f"{right}.lock"
            with lock.open("a+") as file, lock.with_suffix(".queue").open("a+") as queue:
                fcntl.flock(queue, fcntl.LOCK_EX)  # the kernel would let those who share pass by
                fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
                fcntl.flock(queue, fcntl.LOCK_UN)
                yield
        else:
            number, kind = {"n": _LOCKS[right]}, "_shared" if shared else ""
            with self.naming_it(), self.engine.connect() as connection:
                connection.execute(text(f"SELECT pg_advisory_lock{kind}(:n)"), number)
                try:
                    yield
                finally:
                    connection.execute(text(f"SELECT pg_advisory_unlock{kind}(:n)"), number)

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An `INSERT` that can be told what to do about a row that is there already."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def in_order(self, connection: Connection) -> None:
        """Make positions visible in their order, so that no reader passes one over.

        To be called first in a transaction that appends; SQLite has one writer anyway.
        """
        if not self.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _APPEND_LOCK})

    @contextlib.contextmanager
    def naming_it(self) -> Iterator[None]:
        """Turn errors of the database into one line that says which log and where.

        Raises:
            HymirecError: in place of any error of the database.
        """
        try:
            yield
        except SQLAlchemyError as error:
            url = self.engine.url
            where = url.database if self.is_sqlite else hide_password(url.render_as_string())
            cause = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            raise HymirecError(f"{self._what} {where} cannot be used: {cause}") from error

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


class Log:
    """What a home writes down, in tables of its database; shared by threads and by processes.

    Attributes:
        what: how errors name it.
        tables: made where they are not there yet.
        home: whose it is.
    """

    what: ClassVar[str]
    tables: ClassVar[MetaData]

    def __init__(self, home: Home, url: str | None = None) -> None:
        """Open it, making it where there is none.

        Args:
            home: whose it is.
            url: its address; by default what `HYMIREC_EVENT_LOG` says, or a file of the home.

        Raises:
            UsageError: the address is of no database that can hold it.
            HymirecError: the database cannot be used.
        """
        self.home = home
        self._database = LogDatabase(home, self.what, url)
        self._database.make(self.tables)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()


def numbered_table(name: str, metadata: MetaData, *parts: SchemaItem) -> Table:
    """A table whose rows have a `position`, which grows and is never given twice."""
    position = Column(
        "position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True,
        autoincrement=True,
    )  # fmt: skip
    return Table(name, metadata, position, *parts, sqlite_autoincrement=True)


def _engine(address: str | URL) -> Engine:
    # A connection that a restarted server has dropped is found out before it is used.
    engine = create_engine(address, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _durable(connection: DBAPIConnection, _: object) -> None:
            # An acknowledged event survives a power cut, and reading never waits for writing.
            for setting in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
                connection.cursor().execute(f"PRAGMA {setting}")

    return engine
