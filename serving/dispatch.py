"""Requests waiting for the model servers of one version, and how they get there.

Each server works on one call at a time, and a call takes along what has come in meanwhile. So
nobody overtakes anybody, which keeps the slowest answers near the others, and what MLflow costs a
call is shared by the requests in it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from pydantic_core import from_json, to_json

from hymirec.errors import HymirecError

MOST_PER_CALL = 16
CALL_SECONDS = 10.0
"""A server that takes longer for one call is taken for lost."""
TRIES = 2

Record = dict[str, Any]
"""One row of a model's input."""


class LostError(HymirecError):
    """A model server did not answer a call."""


class UnavailableError(HymirecError):
    """No model server of the version can answer at present."""


class RefusedError(HymirecError):
    """The model server answered that it cannot answer this."""


@dataclass(eq=False)
class Job:
    """One row and the promise of its answer.

    Attributes:
        record: the row.
        answer: a prediction, or one of the errors above.
        tries: how many servers were lost over it.
    """

    record: Record
    answer: asyncio.Future[dict[str, Any]]
    tries: int = 0


@dataclass(frozen=True)
class Called:
    """What came back of a call: one prediction for each row, and how long it took."""

    predictions: list[dict[str, Any]]
    seconds: float


class Caller:
    """Calls one model server."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        """Name the server."""
        self._session = session
        self._url = url

    async def invoke(self, records: list[Record]) -> Called:
        """Ask for predictions.

        Raises:
            LostError: there is no answer.
            RefusedError: the answer is no prediction.
        """
        started = time.monotonic()
        # The one of MLflow's forms that versions take with a data frame and without.
        body = to_json({"inputs": records})
        status, content, _ = await self.forward(body, "application/json")
        seconds = time.monotonic() - started
        try:
            answer = from_json(content)
        except ValueError as error:
            raise RefusedError(f"status {status}, and no JSON") from error
        said = answer if isinstance(answer, dict) else {}
        if status != 200:
            raise RefusedError(f"status {status}: {str(said.get('message', ''))[:500]}")
        predictions = said.get("predictions")
        if not isinstance(predictions, list) or len(predictions) != len(records) or not all(
            isinstance(one, dict) for one in predictions
        ):  # fmt: skip
            raise RefusedError("the answer is not one prediction for each row")
        return Called(predictions, seconds)

    async def forward(self, body: bytes, content_type: str) -> tuple[int, bytes, str]:
        """Pass a call on as it is; status, body and content type of the answer.

        Raises:
            LostError: there is no answer.
        """
        try:
            async with self._session.post(
                f"{self._url}/invocations", data=body, headers={"content-type": content_type}
            ) as response:
                return response.status, await response.read(), response.content_type
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise LostError(f"no answer from {self._url}: {type(error).__name__}") from error

    async def answers_ping(self) -> bool:
        """Whether it answers."""
        try:
            timeout = aiohttp.ClientTimeout(total=1.0)
            async with self._session.get(f"{self._url}/ping", timeout=timeout) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False


@dataclass(eq=False)
class Dispatcher:
    """The queue before the servers of one version.

    Attributes:
        callers: the servers that answer at present.
    """

    callers: list[Caller] = field(default_factory=list)
    _jobs: asyncio.Queue[Job] = field(default_factory=asyncio.Queue)
    _busy: set[Caller] = field(default_factory=set)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being answered."""
        return self._jobs.empty() and not self._busy

    async def ask(self, record: Record) -> dict[str, Any]:
        """A prediction for one row.

        Raises:
            UnavailableError: no server could give one.
            RefusedError: a server said that it cannot be answered.
        """
        if not self.callers:
            raise UnavailableError("no model server of this version answers at present")
        job = Job(record, asyncio.get_running_loop().create_future())
        self._jobs.put_nowait(job)
        return await job.answer

    async def work(self, caller: Caller, stopping: asyncio.Event) -> None:
        """Answer with one server until told to stop; a call that has begun is finished.

        Raises:
            LostError: the server no longer answers; what it was asked is asked of another.
        """
        self.callers.append(caller)
        stop = asyncio.ensure_future(stopping.wait())
        some: asyncio.Future[Job] | None = None
        try:
            while not stopping.is_set():
                if self._jobs.empty():
                    some = asyncio.ensure_future(self._jobs.get())
                    await asyncio.wait({some, stop}, return_when=asyncio.FIRST_COMPLETED)
                    if not some.done():
                        return
                    first, some = some.result(), None
                else:
                    first = self._jobs.get_nowait()
                await self._answer(caller, self._batch(first))
        finally:
            stop.cancel()
            if some is not None and not some.cancel() and not some.cancelled():
                # It came just as this ended.
                self._jobs.put_nowait(some.result())
            self.callers.remove(caller)
            self._busy.discard(caller)
            if not self.callers:
                self._give_up()

    def _batch(self, first: Job) -> list[Job]:
        """The jobs of a call: a fair share of those waiting, without those nobody waits for."""
        share = -(-(self._jobs.qsize() + 1) // max(1, len(self.callers)))
        jobs = [first]
        while len(jobs) < min(share, MOST_PER_CALL) and not self._jobs.empty():
            jobs.append(self._jobs.get_nowait())
        return [job for job in jobs if not job.answer.done()]

    async def _answer(self, caller: Caller, jobs: list[Job]) -> None:
        if not jobs:
            return
        self._busy.add(caller)
        try:
            await self._call(caller, jobs)
        except (LostError, asyncio.CancelledError):
            for job in jobs:
                if not job.answer.done():
                    self._ask_another(job, caller)
            raise
        finally:
            self._busy.discard(caller)

    async def _call(self, caller: Caller, jobs: list[Job]) -> None:
        try:
            called = await caller.invoke([job.record for job in jobs])
        except RefusedError as error:
            if len(jobs) == 1:
                _fail(jobs[0], error)
            else:  # which of them it was is found out one by one
                for job in jobs:
                    await self._call(caller, [job])
        else:
            for job, prediction in zip(jobs, called.predictions, strict=True):
                if not job.answer.done():
                    prediction["call_seconds"] = called.seconds
                    job.answer.set_result(prediction)

    def _ask_another(self, job: Job, lost: Caller) -> None:
        job.tries += 1
        if job.tries < TRIES and any(caller is not lost for caller in self.callers):
            self._jobs.put_nowait(job)
        else:
            _fail(job, UnavailableError("the model server was lost"))

    def _give_up(self) -> None:
        while not self._jobs.empty():
            _fail(self._jobs.get_nowait(), UnavailableError("the model server was lost"))


def _fail(job: Job, error: HymirecError) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)
