"""Who serves a codebook at present: a row beside the event log that its server renews.

What was promoted is in the model registry; a server may run that the registry knows nothing of, on
another machine too. A server that ended, however it did, stops renewing, and its lease lapses.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
import weakref

from sqlalchemy import Column, Float, MetaData, String, Table, delete, insert, select, update

from features.logs.database import LogDatabase
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home

log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
"""From one renewal; machines' clocks may differ by some of it."""
SECONDS_BETWEEN_RENEWALS = 15.0

_METADATA = MetaData()
_LEASES = Table(
    "leases",
    _METADATA,
    Column("lease_id", String, primary_key=True),
    Column("codebook_id", String, nullable=False),
    Column("holder", String, nullable=False),
    Column("expires_at", Float, nullable=False),
)


class Lease:
    """Says that a codebook is needed here, for as long as this object lives."""

    def __init__(self, home: Home, codebook_id: str, what: str) -> None:
        """Take the lease and keep renewing it, in a thread.

        A database that cannot be reached is logged: a server goes on without its lease.

        Args:
            home: whose codebook it is.
            codebook_id: what is needed.
            what: needs it, for people.
        """
        self.codebook_id = codebook_id
        self.holder = f"{what} (process {os.getpid()} of {socket.gethostname()})"
        self._id = uuid.uuid4().hex
        self._home = home
        self._database: LogDatabase | None = None
        self.renew()
        threading.Thread(target=_keep_renewing, args=(weakref.ref(self),), daemon=True).start()

    def renew(self) -> None:
        """Write the row, and sweep out the lapsed ones."""
        now = time.time()
        values = {
            "codebook_id": self.codebook_id, "holder": self.holder,
            "expires_at": now + LEASE_SECONDS,
        }  # fmt: skip
        try:
            if self._database is None:
                self._database = _open(self._home)
            with self._database.naming_it(), self._database.engine.begin() as connection:
                mine = _LEASES.c.lease_id == self._id
                if not connection.execute(update(_LEASES).where(mine).values(values)).rowcount:
                    connection.execute(insert(_LEASES).values(lease_id=self._id, **values))
                connection.execute(delete(_LEASES).where(_LEASES.c.expires_at < now))
        except (HymirecError, OSError) as error:
            log.warning("lease of codebook %s not renewed: %s", self.codebook_id, error)


def holders(home: Home, codebook_id: str) -> list[str]:
    """Name who serves a codebook at present, in alphabetical order.

    Raises:
        HymirecError: the database cannot be read.
    """
    database = _open(home)
    try:
        with database.naming_it(), database.engine.connect() as connection:
            found = select(_LEASES.c.holder).where(
                _LEASES.c.codebook_id == codebook_id, _LEASES.c.expires_at >= time.time()
            )
            return sorted(connection.scalars(found))
    finally:
        database.close()


def refuse_if_served(home: Home, codebook_id: str) -> None:
    """Refuse to drop a codebook that a running server needs.

    Raises:
        UsageError: one does; the message names the servers.
        HymirecError: the database cannot be read.
    """
    if found := holders(home, codebook_id):
        raise UsageError(
            f"codebook {codebook_id} is served by {', '.join(found)}: stop it, "
            f"and try again {LEASE_SECONDS:.0f} s later"
        )


def _open(home: Home) -> LogDatabase:
    database = LogDatabase(home, "record of servers")
    database.make(_METADATA)
    return database


def _keep_renewing(lease: weakref.ref[Lease]) -> None:
    while True:
        time.sleep(SECONDS_BETWEEN_RENEWALS)
        if (found := lease()) is None:
            return
        found.renew()
        del found
