"""All versions that are served, and which of them is the champion.

The registry is asked once a second, or as soon as somebody says that it has changed. A new champion
is started aside and takes over when it is ready, between two requests; the one before stays ready
for going back. As long as there is no new one that is ready, the old one answers.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import aiohttp

from hymirec.errors import HymirecError
from serving.dispatch import CALL_SECONDS
from serving.registry import Registry
from serving.rollout import Rollout
from serving.settings import GatewaySettings
from serving.versions import Processes, ServedVersion

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class Fleet:
    """Follows an alias; an asynchronous context manager, to be used on one event loop.

    Attributes:
        champion: who answers; set as long as the fleet is open.
        previous: who did before, ready for going back; None before the first change.
        versions: all that are served or being started.
        on_move: called in a thread when the alias is found to name another version, and at the
            first look; again in a second if it raises a `HymirecError`.
        switches: changes of champion since the start.
    """

    champion: ServedVersion

    def __init__(
        self, registry: Registry, alias: str, rollout: Rollout, settings: GatewaySettings,
        program: Path | None = None,
    ) -> None:  # fmt: skip
        """Say what to follow, and what model servers run if it is no real one; nothing starts."""
        self._program = program
        self.registry = registry
        self.alias = alias
        self.rollout = rollout
        self.settings = settings
        self.previous: ServedVersion | None = None
        self.versions: dict[int, ServedVersion] = {}
        self.on_move: Callable[[], object] = lambda: None
        self.switches = 0
        self._named: int | None = None
        self._told: int | None = None
        self._switched_at = 0.0
        self._said = ""
        self._changed = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Fleet:
        """Start the champion and return when it answers.

        Raises:
            HymirecError: there is none, or its model server does not come up.
        """
        self._loop = asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        self._session = aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
        )
        self._processes = Processes(
            self.registry.home, standby=self.settings.standby, program=self._program
        )
        try:
            number = await asyncio.to_thread(self.registry.resolve, self.alias)
            champion = await self._served(number)
            champion.scale(self.settings.replicas)
            while not champion.ready:
                if champion.problem:
                    raise HymirecError(f"version {number} cannot be served: {champion.problem}")
                await asyncio.sleep(0.02)
        except BaseException:
            await self._close()
            raise
        self.champion = champion
        self._follower = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._follower.cancel()
        with suppress(asyncio.CancelledError):
            await self._follower
        await self._close()

    @property
    def following(self) -> bool:
        """Whether changes of the registry are still noticed."""
        return not self._follower.done()

    def look_now(self) -> None:
        """Say that the registry may have changed; from any thread."""
        with suppress(RuntimeError):  # the loop is closed: there is nobody to look
            self._loop.call_soon_threadsafe(self._changed.set)

    def served(self, version: int | None) -> ServedVersion | None:
        """The version that answers when this one is asked for; None when it is not ready.

        None asks for the champion, which is always there, ready or not.
        """
        if version is None:
            return self.champion
        found = self.versions.get(version)
        return found if found is not None and found.ready else None

    async def _follow(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_SECONDS)
            self._changed.clear()
            try:
                try:
                    await self._look()
                finally:
                    await self._tell()
                self._said = ""
            except HymirecError as error:
                if str(error) != self._said:
                    log.warning("version %d goes on: %s", self.champion.info.version, error)
                self._said = str(error)
            except Exception:  # whatever it was, requests go on and so does looking
                log.exception("looking for a new champion failed")

    async def _look(self) -> None:
        """Bring what is served in line with the registry and the rollout, as far as it is ready."""
        aliases = await asyncio.to_thread(self.registry.aliases)
        self._named = aliases.get(self.alias)
        coming, problem = self.champion, None
        try:
            if self._named is None:
                raise HymirecError(f"no version is {self.alias!r} any more")
            coming = await self._served(self._named)
        except HymirecError as error:  # the versions of experiments have nothing to do with it
            problem = error
        if coming is not self.champion and coming.ready:
            self._switch(coming)
        wanted = self._wanted(coming, aliases)
        for version, replicas in wanted.items():
            if version in self.versions:
                self.versions[version].scale(replicas)
        for version in set(self.versions) - set(wanted):
            self._retire(version)
        self._processes.replenish()
        for version in set(wanted) - set(self.versions):
            try:
                (await self._served(version)).scale(wanted[version])
            except HymirecError as error:  # nor have they with each other
                problem = error
        if problem:
            raise problem

    async def _tell(self) -> None:
        """Say that the alias has moved, after what that asks for was begun."""
        if self._named != self._told:
            named = self._named
            await asyncio.to_thread(self.on_move)
            self._told = named

    def _wanted(self, coming: ServedVersion, aliases: Mapping[str, int]) -> dict[int, int]:
        """How many servers each version is to have."""
        full = self.settings.replicas
        wanted = {aliases[alias]: 1 for alias in self.settings.ready if alias in aliases}
        if self.previous is not None:
            recent = time.monotonic() - self._switched_at < self.settings.full_seconds
            # What it has, no more: the processor is the champion's.
            wanted[self.previous.info.version] = self.previous.wanted if recent else 1
        wanted |= dict.fromkeys(self.rollout.versions(), full)
        return wanted | {coming.info.version: full, self.champion.info.version: full}

    def _switch(self, coming: ServedVersion) -> None:
        self.previous, self.champion = self.champion, coming
        self.switches += 1
        self._switched_at = time.monotonic()
        log.info(
            "version %d answers, version %d is ready for going back",
            coming.info.version, self.previous.info.version,
        )  # fmt: skip

    async def _served(self, version: int) -> ServedVersion:
        if version not in self.versions:
            info = await asyncio.to_thread(self.registry.info, version)
            fetch = functools.partial(self.registry.fetch, version)
            directory = await asyncio.to_thread(fetch)
            self.versions[version] = ServedVersion(
                info, directory, self._processes, self._session, fetch
            )
        return self.versions[version]

    def _retire(self, version: int) -> None:
        async def work() -> None:
            await retired.drain()
            if version not in self.versions:
                await asyncio.to_thread(self.registry.forget, version)

        retired = self.versions.pop(version)
        task = asyncio.create_task(work())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close(self) -> None:
        self._processes.close()
        await asyncio.gather(*(one.drain() for one in self.versions.values()), *self._retiring)
        await self._session.close()
