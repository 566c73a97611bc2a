"""Programs that stay: started in the background, found again by whoever asks, stopped.

    <home>/services/<host>/<name>.json   process id, when it began, address, command
                           <name>.log    what it prints, appended

By host, because machines may share a home. A file whose process is gone, or whose number another
program has by now, counts for nothing. Only processes named there are ever signalled, and those
they have started themselves.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
import requests

from hymirec.errors import HymirecError
from hymirec.home import Home

log = logging.getLogger(__name__)

START_SECONDS = 120.0
STOP_SECONDS = 15.0
PATIENCE_SECONDS = 30.0
LONGEST_PAUSE = 60.0
"""Before what could not be started is tried again."""
_SECONDS_BETWEEN_LOOKS = 0.3
_SAME_START = 1.0
"""Seconds by which two readings of when a process began may differ."""

State = Literal["running", "not answering", "stopped"]


@dataclass(frozen=True)
class Service:
    """A program to run.

    Attributes:
        name: of its files.
        command: program and arguments.
        url: where it answers; empty for one that answers nowhere.
        health: path under the URL that answers 200 when it is well.
    """

    name: str
    command: Sequence[str]
    url: str = ""
    health: str = ""


@dataclass(frozen=True)
class Running:
    """A program that was started, as its file has it."""

    name: str
    pid: int
    began: float
    url: str
    health: str
    command: list[str]

    @property
    def process(self) -> psutil.Process | None:
        """The process; None if it has ended."""
        with suppress(psutil.Error):
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.began) < _SAME_START
            if same and found.status() != psutil.STATUS_ZOMBIE:
                return found
        return None

    @property
    def state(self) -> State:
        """Whether it runs and, where it can be asked, answers."""
        if self.process is None:
            return "stopped"
        return "running" if self.answers() else "not answering"

    @property
    def left(self) -> list[psutil.Process]:
        """What it has started and has not taken along when it was killed.

        It had a session of its own, whose number nobody else gets while one of them lives.
        """
        leader = _process(self.pid)
        if leader is not None and abs(leader.create_time() - self.began) >= _SAME_START:
            return []  # the number is another's by now, so that nobody was left
        found = []
        for one in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if one.pid != self.pid and os.getsid(one.pid) == self.pid:
                    found.append(one)
        return found

    def comes_round(self) -> bool:
        """Whether it answers within `PATIENCE_SECONDS`, as one does that had much to do."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.process is not None and time.monotonic() < deadline:
            if self.answers():
                return True
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return False

    def answers(self) -> bool:
        """Whether it is well; one that cannot be asked is."""
        if not self.health:
            return True
        with suppress(requests.RequestException):
            return requests.get(self.url + self.health, timeout=5).ok
        return False


@contextmanager
def one_at_a_time(home: Home) -> Iterator[None]:
    """Wait until nobody else starts or stops services here: two would start the same twice."""
    folder(home).mkdir(parents=True, exist_ok=True)
    with (folder(home) / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def find(home: Home, name: str) -> Running | None:
    """What was last started under a name, whether it runs or not; None if nothing was."""
    try:
        return Running(**json.loads(_file(home, name).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def found(home: Home) -> list[Running]:
    """All that were started, in the order they were."""
    names = [path.stem for path in sorted(folder(home).glob("*.json"))]
    every = [one for name in names if (one := find(home, name)) is not None]
    return sorted(every, key=lambda one: one.began)


def log_path(home: Home, name: str) -> Path:
    """Where a program prints."""
    return folder(home) / f"{name}.log"


def folder(home: Home) -> Path:
    """Where this machine's files lie."""
    return home.root / "services" / socket.gethostname()


def start(home: Home, service: Service, environment: Mapping[str, str]) -> Running:
    """Start a program in the background and return when it answers.

    Raises:
        HymirecError: it ended or did not answer in time, and the message has its last line and log;
            or it cannot be written down, and was ended again.
    """
    path = log_path(home, service.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as output:
        process = subprocess.Popen(
            list(service.command), env=dict(environment), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    running = Running(
        service.name, process.pid, psutil.Process(process.pid).create_time(), service.url,
        service.health, list(service.command),
    )  # fmt: skip
    file = _file(home, service.name)
    try:
        # Of one who did not come to the end.
        _stopping(home, service.name).unlink(missing_ok=True)
        _write_down(running, file)
    except OSError as error:
        # Nobody could find it, nor stop it, and whoever starts another would find its port in use.
        _end(running)
        process.wait()
        raise HymirecError(
            f"{service.name} was not started: {file} cannot be written: {error.strerror}"
        ) from error
    deadline = time.monotonic() + START_SECONDS
    # One that answers nowhere is given a moment in which to fail.
    earliest = time.monotonic() + (0 if service.health else 2)
    while time.monotonic() < deadline:
        if process.poll() is not None:
            file.unlink(missing_ok=True)
            raise HymirecError(f"{service.name} ended: {_last_line(path)} (log: {path})")
        if time.monotonic() >= earliest and running.answers():
            log.info("%s: %s", service.name, service.url or f"process {process.pid}")
            return running
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    stop(home, running)
    raise HymirecError(f"{service.name} did not answer within {START_SECONDS:.0f} s (log: {path})")


def stop(home: Home, running: Running) -> bool:
    """Stop a program and all that it has started; whether it ran."""
    stopping = _stopping(home, running.name)
    stopping.touch()  # or who keeps it would take it for one that ended by itself
    ran = _end(running)
    _file(home, running.name).unlink(missing_ok=True)
    stopping.unlink(missing_ok=True)
    return ran


def _write_down(running: Running, file: Path) -> None:
    """Write the file of a program, whole or not at all."""
    temporary = file.with_suffix(".tmp")
    try:
        temporary.write_text(json.dumps(asdict(running)))
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def _end(running: Running) -> bool:
    """End a program and all that it has started; whether it ran."""
    process, family = running.process, running.left
    if process is not None:
        family.append(process)
        with suppress(psutil.Error):
            family += process.children(recursive=True)
        with suppress(psutil.Error):
            process.terminate()
        psutil.wait_procs([process], timeout=STOP_SECONDS)
    # Those it left behind, and those it would not let go of.
    if left := [one for one in family if one.is_running()]:
        for one in left:
            with suppress(psutil.Error):
                one.terminate()
        _, alive = psutil.wait_procs(left, timeout=STOP_SECONDS / 3)
        for one in alive:
            with suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(alive, timeout=STOP_SECONDS / 3)
    return process is not None


def _process(pid: int) -> psutil.Process | None:
    with suppress(psutil.Error):
        return psutil.Process(pid)
    return None


def keep(
    home: Home, names: Sequence[str], start_again: Callable[[str], None], told: threading.Event
) -> None:
    """Start again what ends by itself, until told to stop or nothing is left to keep.

    What `stop` has ended, here or by another process, stays ended.

    Args:
        home: whose programs.
        names: of those to keep.
        start_again: starts one; may raise `HymirecError` or `OSError`, as where the disk is full,
            and is then asked again, later each time.
        told: set to stop.
    """
    pauses: dict[str, float] = {}
    due: dict[str, float] = {}
    while not told.wait(_SECONDS_BETWEEN_LOOKS):
        kept = {name: find(home, name) for name in names}
        if not due and not any(kept.values()):
            return
        for name, running in kept.items():
            ended = running is not None and running.process is None
            # Stopped meanwhile: the mark is there before it ends, and goes after its file.
            if ended and (_stopping(home, name).exists() or find(home, name) is None):
                continue
            if time.monotonic() < due.get(name, 0.0 if ended else float("inf")):
                continue
            log.warning("%s has ended and is started again", name)
            try:
                start_again(name)
            except (HymirecError, OSError) as error:
                pauses[name] = min(LONGEST_PAUSE, 2 * pauses.get(name, 0.5))
                due[name] = time.monotonic() + pauses[name]
                log.warning("%s; tried again in %.0f s", error, pauses[name])
            else:
                pauses.pop(name, None)
                due.pop(name, None)


def _file(home: Home, name: str) -> Path:
    return folder(home) / f"{name}.json"


def _stopping(home: Home, name: str) -> Path:
    """There while a program is being stopped."""
    return folder(home) / f"{name}.stopping"


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no output")
