"""The exposure log's way in: a file of this process, from which a thread fills the database.

A row is in the file before its answer is sent, which takes microseconds, and in the database a
moment later (docs/adr/0006-exposures-are-journalled.md). A process that is killed leaves its file
behind, and the next one takes it in. While the disk is full rows wait in memory for the database.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from features.logs.exposures import Exposure, ExposureLog, ShadowAnswer
from hymirec.errors import HymirecError
from hymirec.home import Home

log = logging.getLogger(__name__)

SECONDS_BETWEEN_DRAINS = 0.25
SECONDS_AFTER_FAILURE = 5.0
SEGMENT_BYTES = 8_000_000
"""Of a journal's file, after which another is begun."""
ROWS_PER_WRITE = 2000
MOST_IN_MEMORY = 100_000
"""Rows that wait for the database while no file takes them."""


class ExposureJournal:
    """Takes rows of one process and brings them into the database; `append` waits for nothing.

    A context manager: the thread runs inside, and what was appended is in the database after.
    """

    def __init__(self, home: Home, url: str | None = None) -> None:
        """Open the database and begin a journal; arguments as `EventLog`.

        Raises:
            UsageError: the address is of no database that can hold it.
            HymirecError: the database cannot be used, or the journal cannot be written.
        """
        self._log = ExposureLog(home, url)
        self._directory = home.events / "exposures"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._segment = _Segment.begin(self._directory)
        except OSError as error:
            raise HymirecError(f"{self._directory} cannot be written: {error.strerror}") from error
        self._full: list[_Segment] = []
        self._unwritten: list[dict[str, Any]] = []
        self._lock, self._draining = threading.Lock(), threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exposures", daemon=True)

    def append(self, row: Exposure | ShadowAnswer) -> None:
        """Take a row: when this returns, it survives the death of this process.

        While the disk is full it does not: it waits in memory.

        Raises:
            HymirecError: it cannot be written, and too many wait already.
        """
        values = {"exposure_id": uuid.uuid4().hex, "kind": type(row).__name__} | vars(row)
        line = _line(values)
        with self._lock:
            try:
                if self._segment.size > SEGMENT_BYTES:
                    full, self._segment = self._segment, _Segment.begin(self._directory)
                    self._full.append(full)
                self._segment.write(line)
            except OSError as error:
                if len(self._unwritten) >= MOST_IN_MEMORY:
                    raise HymirecError(
                        f"an exposure cannot be written: {error.strerror}"
                    ) from error
                if not self._unwritten:
                    log.warning("exposures wait in memory: %s", error.strerror)
                self._unwritten.append(values)

    def drain(self) -> int:
        """Bring all that was appended, here or by processes that died, into the database.

        Returns:
            How many rows were new.

        Raises:
            HymirecError: the database cannot be written; nothing is lost.
        """
        with self._draining:
            return self._drain()

    def _drain(self) -> int:
        with self._lock:
            full, current = list(self._full), self._segment
        new = self._take_in_unwritten()
        for segment in (*full, current):
            new += self._take_in(segment)
        with self._lock:
            del self._full[: len(full)]
        for segment in full:  # what is left in it is half a row
            segment.remove()
        return new + sum(self._recover(path) for path in self._left_behind())

    def close(self) -> None:
        """Bring what is left into the database and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self.drain()
        except Exception as error:  # whatever it is, the next start tries them again
            known = isinstance(error, HymirecError)
            log.warning("exposures stay in %s until the next start: %s", self._directory, error,
                        exc_info=not known)  # fmt: skip
            if lost := self._leave_to_the_disk():
                log.error("%d exposures that no disk took are lost", lost)
            for segment in (*self._full, self._segment):
                segment.close()
        else:
            self._segment.remove()
        self._log.close()

    def __enter__(self) -> ExposureJournal:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stop.wait(SECONDS_BETWEEN_DRAINS):
            try:
                self.drain()
            except Exception as error:  # whatever it is, rows wait and are tried again
                known = isinstance(error, HymirecError)
                log.warning("exposures wait: %s", error, exc_info=not known)
                self._stop.wait(SECONDS_AFTER_FAILURE)

    def _leave_to_the_disk(self) -> int:
        """Write down what waits in memory, where the disk has room again; how many it does not."""
        for done, values in enumerate(self._unwritten):
            try:
                self._segment.write(_line(values))
            except OSError:
                return len(self._unwritten) - done
        return 0

    def _take_in_unwritten(self) -> int:
        new = 0
        while rows := self._unwritten[:ROWS_PER_WRITE]:
            new += self._log.append(rows)
            with self._lock:
                del self._unwritten[: len(rows)]
        return new

    def _take_in(self, segment: _Segment) -> int:
        new = 0
        while True:
            rows, ahead = segment.read(ROWS_PER_WRITE)
            if ahead == segment.taken:
                return new
            new += self._log.append(rows) if rows else 0
            segment.taken = ahead

    def _left_behind(self) -> list[Path]:
        """Journals that no living process writes."""
        ours = {segment.path for segment in (*self._full, self._segment)}
        return [path for path in sorted(self._directory.glob("*.jsonl")) if path not in ours]

    def _recover(self, path: Path) -> int:
        segment = _Segment.take_over(path)
        if segment is None:
            return 0
        try:
            new = self._take_in(segment)
        except BaseException:
            segment.close()  # and with it the lock, or nobody would take it over again
            raise
        segment.remove()
        if new:
            log.info("%d exposures taken over from a process that ended", new)
        return new


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


class _Segment:
    """One file of a journal; the lock on it says that its process lives."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self.taken = 0
        self._is_torn = False

    @classmethod
    def begin(cls, directory: Path) -> _Segment:
        # Locked under another name first: nobody may find it without a lock.
        path = directory / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.jsonl"
        hidden = path.with_suffix(".new")
        descriptor = os.open(hidden, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        hidden.rename(path)
        return cls(path, descriptor)

    @classmethod
    def take_over(cls, path: Path) -> _Segment | None:
        """The journal of a process that ended; None if it has not, or others take it."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(path, descriptor)

    def write(self, line: bytes) -> None:
        if self._is_torn:  # half a row is passed over when it is read, and only that
            line = b"\n" + line
        written = os.write(self._descriptor, line)
        self.size += written
        self._is_torn = written < len(line)
        if self._is_torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read(self, most: int) -> tuple[list[dict[str, Any]], int]:
        """Whole rows from `taken` on, and up to where they go."""
        rows: list[dict[str, Any]] = []
        ahead = self.taken
        data = os.pread(self._descriptor, self.size - self.taken, self.taken)
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n") or len(rows) == most:
                break
            ahead += len(line)
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
        return rows, ahead

    def close(self) -> None:
        os.close(self._descriptor)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()
