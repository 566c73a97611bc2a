"""One process at a time where two would spoil each other's work.

A lock is a POSIX record lock on a file of the home. The kernel takes it from a process that dies,
whatever children it leaves behind, so that no lock is ever stale. Who holds it stands in the file,
for messages only.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from hymirec.errors import UsageError
from hymirec.home import Home
from hymirec.long_work import duration

log = logging.getLogger(__name__)

TRAINING, VALIDATION, PUBLICATION = "pipeline", "validate", "publish-features"
"""Locks of whole flows: of those that train or register, of `validate`, of `publish-features`."""
DATA, STORES, MONITOR = "data", "stores", "monitor"
"""Locks of what flows of any kind write to, held for the time of writing."""
GATE = "gate"
"""Lock of who passes the gate: one at a time, whose servers are timed."""
KINDS = (TRAINING, VALIDATION, PUBLICATION, DATA, STORES, MONITOR, GATE)
FOREVER = math.inf

_SECONDS_BETWEEN_TRIES = 0.2

# Closing any file descriptor of a file ends this process's record lock on it, and its threads share
# the lock. So what the process holds itself is known here, and that file is not opened again.
_held: dict[Path, str] = {}
_holding = threading.Lock()


@contextmanager
def alone_in(home: Home, what: str = TRAINING, *, wait_seconds: float = 0) -> Iterator[None]:
    """Keep a second run of a kind out of a home while one runs.

    Args:
        home: which.
        what: the kind; names the lock.
        wait_seconds: for the other to end, before refusing; `FOREVER` never refuses.

    Raises:
        UsageError: another run is at it; the message says which process, on which host, since when.
            Or there is no such home.
    """
    if not home.root.is_dir():
        raise UsageError(f"{home.root} does not exist: run `hymirec pipeline` first")
    path = home.root / f"{what}.lock"
    began, told = time.monotonic(), False
    while (file := _take(path)) is None:
        message = f"another {what} is running in {home.root}: {_owner(path)}"
        if not wait_seconds:
            raise UsageError(f"{message}; wait for it to end, or stop it")
        if time.monotonic() - began >= wait_seconds:
            raise UsageError(f"{message}; waited {duration(wait_seconds)} for it to end")
        if not told:
            limit = "" if wait_seconds == FOREVER else f", {duration(wait_seconds)} at most"
            log.info("%s; waiting for it%s", message, limit)
            told = True
        time.sleep(_SECONDS_BETWEEN_TRIES)
    try:
        yield
    finally:
        with _holding:
            file.truncate(0)
            del _held[path]
            file.close()  # which gives the lock up


def running_since(home: Home) -> float:
    """When the oldest run that still goes on took its lock: seconds since 1970 UTC.

    Infinite where none goes on.
    """
    paths = [home.root / f"{what}.lock" for what in KINDS]
    return min((_signed(path) for path in paths), default=math.inf)


def _signed(path: Path) -> float:
    """When a lock was signed by who holds it; infinite where nobody does."""
    with suppress(FileNotFoundError), _holding:
        signed = path.stat()
        if path in _held:
            return signed.st_mtime
        if signed.st_size:  # or nobody has it; trying might turn away a run that begins just now
            try:
                with path.open("r+") as file:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file.truncate(0)  # of a process that was killed
            except (BlockingIOError, PermissionError):  # as systems differ
                return signed.st_mtime
    return math.inf


def _take(path: Path) -> IO[str] | None:
    """Lock a file and sign it; None if somebody else has."""
    with _holding:
        if path in _held:
            return None
        file = path.open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # as systems differ
            file.close()
            return None
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        owner = f"process {os.getpid()} on {socket.gethostname()} since {since}"
        file.truncate(0)
        file.write(owner)
        file.flush()
        _held[path] = owner
        return file


def _owner(path: Path) -> str:
    with _holding:
        if path in _held:
            return _held[path]
        # Between locking and signing, and between unsigning and unlocking, the file is empty.
        return path.read_text() or "a process that is just beginning or ending"
