"""One served version: its model servers, kept running, and the queue before them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from hymirec.errors import HymirecError, VersionError
from hymirec.home import Home
from hymirec.query import MAX_K, Query
from serving.dispatch import Caller, Dispatcher, LostError
from serving.registry import VersionInfo
from serving.server import START_SECONDS, ModelProcess

log = logging.getLogger(__name__)

WARM_UP_CALLS = 3
LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0
"""A server that ran for so long is started at once when it is lost."""
LOOK_SECONDS = 0.1
DRAIN_SECONDS = 10.0


class Processes:
    """Makes processes for model servers, one at a time, from one that has already imported much."""

    def __init__(self, home: Home, *, standby: bool, program: Path | None = None) -> None:
        """Say where, and what runs in them; nothing starts yet."""
        self.home = home
        self._program = program
        self.starting = asyncio.Semaphore(1)
        self._keeps_standby = standby
        self._standby: ModelProcess | None = None

    def take(self) -> ModelProcess:
        """A process that waits to be told what to serve."""
        process, self._standby = self._standby, None
        if process is not None and process.running:
            return process
        return ModelProcess(self.home, program=self._program)

    def replenish(self) -> None:
        """Have one ready for the next, unless one is starting, which needs the processor more."""
        if self._keeps_standby and not self.starting.locked() and (
            self._standby is None or not self._standby.running
        ):  # fmt: skip
            self._standby = ModelProcess(self.home, program=self._program)

    def close(self) -> None:
        """End the one that waits."""
        process, self._standby = self._standby, None
        if process is not None:
            process.stop()


class ServedVersion:
    """A version and its model servers; to be used on one event loop.

    A server counts from when it has answered the version's own example as that version; one that
    is lost is started again, after a pause that grows.
    """

    def __init__(
        self,
        info: VersionInfo,
        directory: Path,
        processes: Processes,
        session: aiohttp.ClientSession,
        fetch: Callable[[], Path],
    ) -> None:
        """Name the version and where its files are; `scale` starts servers.

        Args:
            info: of the registry.
            directory: of its files.
            processes: to run servers in.
            session: to call them with.
            fetch: looks whether the files are what they were, and brings them again if not; may
                raise `HymirecError`, and is called from another thread.
        """
        self.info = info
        self.directory = directory
        self._fetch = fetch
        self.popular: list[dict[str, Any]] = []
        self.problem = ""
        self.restarts = 0
        self._dispatcher = Dispatcher()
        self._processes = processes
        self._session = session
        self._slots: list[tuple[asyncio.Event, asyncio.Task[None]]] = []
        self._running: dict[Caller, ModelProcess] = {}

    @property
    def ready(self) -> bool:
        """Whether a server answers."""
        return bool(self._dispatcher.callers)

    @property
    def num_ready(self) -> int:
        """How many do."""
        return len(self._dispatcher.callers)

    @property
    def wanted(self) -> int:
        """How many there should be."""
        return len(self._slots)

    @property
    def pids(self) -> list[int]:
        """Of the servers that answer."""
        return [self._running[caller].pid for caller in self._dispatcher.callers]

    async def ask(self, record: dict[str, Any]) -> dict[str, Any]:
        """See `Dispatcher.ask`; the answer is this version's.

        Raises:
            UnavailableError, RefusedError.
        """
        return await self._dispatcher.ask(record)

    async def forward(self, body: bytes, content_type: str) -> tuple[int, bytes, str]:
        """Pass a call of MLflow's own protocol on to a server, or to another if that is lost.

        Raises:
            LostError: nobody answers.
        """
        error = LostError("no model server of this version answers at present")
        for caller in list(self._dispatcher.callers):
            try:
                return await caller.forward(body, content_type)
            except LostError as lost:
                error = lost
        raise error

    def scale(self, replicas: int) -> None:
        """Have so many servers; those too many finish what they are doing."""
        while len(self._slots) < replicas:
            stopping = asyncio.Event()
            self._slots.append((stopping, asyncio.create_task(self._keep_one(stopping))))
        while len(self._slots) > replicas:
            stopping, task = self._slots.pop()
            stopping.set()
            task.add_done_callback(_forget)

    async def drain(self) -> None:
        """Answer all that was asked, and stop."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while not self._dispatcher.idle and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        tasks = [task for _, task in self._slots]
        self.scale(0)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()

    async def _keep_one(self, stopping: asyncio.Event) -> None:
        """Keep one server running until told to stop."""
        pause = 0.0
        logs: set[Path] = set()
        while not stopping.is_set():
            started = time.monotonic()
            try:
                await self._run_one(stopping, logs)
            except HymirecError as error:
                self.problem = str(error)
                log.warning("version %d: %s", self.info.version, error)
            except OSError as error:
                self.problem = f"no process can be started: {error.strerror}"
                log.warning("version %d: %s", self.info.version, self.problem)
            except Exception as error:  # its code may answer anything; it is tried again
                self.problem = f"its answers cannot be used: {type(error).__name__}: {error}"
                log.exception("version %d", self.info.version)
            if stopping.is_set():
                return
            self.restarts += 1
            if time.monotonic() - started > STEADY_SECONDS:
                pause = 0.0
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), pause)
            pause = min(LONGEST_PAUSE, 2 * pause or 1.0)
            with suppress(HymirecError):  # what is there may do
                self.directory = await asyncio.to_thread(self._fetch)

    async def _run_one(self, stopping: asyncio.Event, logs: set[Path]) -> None:
        """Answer with a server until told to stop or it is lost.

        Args:
            stopping: set to stop it.
            logs: that are left of those lost before; then the one of this, if it is lost.
        """
        process: ModelProcess | None = None
        try:
            async with self._processes.starting:
                if stopping.is_set():
                    return
                process = self._processes.take()
                process.serve(self.directory)
                caller = Caller(self._session, process.url)
                await self._until_ready(process, caller, stopping)
                if stopping.is_set():
                    return
                await self._warm_up(caller)
            self._running[caller] = process
            self.problem = ""
            await self._serve(process, caller, stopping)
        finally:
            if process is not None:
                self._running = {
                    one: its for one, its in self._running.items() if its is not process
                }
                # It has nothing left to do, or does not answer.
                process.kill()
                # The last log is kept for who looks; one that never comes up is tried for ever.
                logs.add(process.log_path)
                kept = set() if stopping.is_set() else {process.log_path}
                for path in logs - kept:
                    path.unlink(missing_ok=True)
                logs &= kept

    async def _until_ready(
        self, process: ModelProcess, caller: Caller, stopping: asyncio.Event
    ) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not stopping.is_set():
            if await _while_running(process, caller.answers_ping):
                return
            if not process.running:
                raise HymirecError(f"its model server stopped: {process.explanation()}")
            if time.monotonic() > deadline:
                raise HymirecError(
                    f"its model server did not answer within {START_SECONDS} s "
                    f"(log: {process.log_path})"
                )

    async def _warm_up(self, caller: Caller) -> None:
        """Call it until it is warm, and see that it answers as what it is taken for."""
        example = self.directory / "serving_input_example.json"
        for _ in range(WARM_UP_CALLS):
            status, content, _ = await caller.forward(example.read_bytes(), "application/json")
            if status != 200:
                raise VersionError(
                    f"its model server answers {status} to the version's own example"
                )
        self._check(json.loads(content)["predictions"][0])
        query = Query(k=MAX_K, exclude_seen=False)
        called = await caller.invoke([{"user_id": "", "query": query.model_dump_json()}])
        self.popular = called.predictions[0]["recommendations"]

    def _check(self, prediction: dict[str, Any]) -> None:
        """Refuse a server that answers as another version, or in another form than ours.

        Raises:
            VersionError: it does.
        """
        expected = {
            "model_version": str(self.info.version),
            "run_id": self.info.run_id,
            "codebook_id": self.info.codebook_id,
        }
        for name, value in expected.items():
            if name not in prediction:
                raise VersionError(
                    f"its answers do not say their {name}: it was registered by an earlier "
                    "hymirec, and a pipeline run registers it again"
                )
            if prediction[name] != value:
                raise VersionError(
                    f"its model server answers with {name} {prediction[name]!r}, "
                    f"the registry says {value!r}"
                )

    async def _serve(self, process: ModelProcess, caller: Caller, stopping: asyncio.Event) -> None:
        """Answer with one server until told to stop or it is lost."""
        work = asyncio.ensure_future(self._dispatcher.work(caller, stopping))
        try:
            while process.running and not work.done():
                await asyncio.wait({work}, timeout=LOOK_SECONDS)
            if not work.done():
                raise LostError(f"its model server stopped: {process.explanation()}")
            work.result()
        finally:
            work.cancel()


async def _while_running(process: ModelProcess, ask: Callable[[], Any]) -> bool:
    """Ask a server, and stop waiting when its process has ended."""
    asked = asyncio.ensure_future(ask())
    while not asked.done() and process.running:
        await asyncio.wait({asked}, timeout=LOOK_SECONDS)
    if asked.done():
        return bool(asked.result())
    asked.cancel()
    return False


def _forget(task: asyncio.Task[None]) -> None:
    with suppress(asyncio.CancelledError):
        task.exception()
